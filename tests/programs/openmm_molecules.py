#!/usr/bin/env python3
"""OpenMM moves particles on its OpenCL platform; energies are compared with its reference platform."""
import openmm
from openmm import unit

SIDE = 6


def system():
    particles = openmm.System()
    force = openmm.NonbondedForce()
    force.setNonbondedMethod(openmm.NonbondedForce.CutoffPeriodic)
    force.setCutoffDistance(0.9)
    for number in range(SIDE ** 3):
        particles.addParticle(39.9)
        force.addParticle(0.2 if number % 2 else -0.2, 0.34, 0.99)
    particles.setDefaultPeriodicBoxVectors((SIDE * 0.4, 0, 0), (0, SIDE * 0.4, 0), (0, 0, SIDE * 0.4))
    particles.addForce(force)
    return particles


places = [openmm.Vec3(x, y, z) * 0.4 for x in range(SIDE) for y in range(SIDE) for z in range(SIDE)]


def energies(platform):
    integrator = openmm.VerletIntegrator(0.002)
    context = openmm.Context(system(), integrator, openmm.Platform.getPlatform(platform))
    context.setPositions(places)
    context.setVelocities([openmm.Vec3(((i * 7) % 11 - 5) / 20, ((i * 5) % 13 - 6) / 20, 0) for i in range(len(places))])
    found = []
    for _ in range(3):
        state = context.getState(energy=True)
        total = state.getPotentialEnergy() + state.getKineticEnergy()
        found.append(total.value_in_unit(unit.kilojoule_per_mole))
        integrator.step(50)
    return found


on_device, reference = energies("OpenCL"), energies("Reference")
for here, there in zip(on_device, reference):
    assert abs(here - there) < 0.01 * abs(there), (on_device, reference)
print("energies:", [f"{energy:.1f}" for energy in on_device])
