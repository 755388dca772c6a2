//! The arbiter with simulated executors, which obey the very words that real ones do.

use std::collections::VecDeque;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use super::super::policy::Eviction;
use super::*;
use crate::lease::word::{self, Begin, Taken};

const MS: Nanos = 1_000_000;
const STEP: Nanos = 100_000;

/// How far ahead of the device an executor goes while others wait, and otherwise.
const AHEAD: [Nanos; 2] = [8 * MS, 2 * MS];

struct Guest {
    word: AtomicU32,
    kernel: Nanos,
    /// Kernels that it still has to run.
    work: usize,
    /// One more kernel comes so often.
    every: Option<Nanos>,
    in_flight: VecDeque<Nanos>,
    claim: u64,
    landed: u64,
    used: Nanos,
    submitted: VecDeque<Nanos>,
    latencies: Vec<Nanos>,
    gone: bool,
}

struct Simulation {
    arbiter: Arbiter,
    guests: Vec<Guest>,
    now: Nanos,
    evicted: Vec<ClientId>,
}

const ENDLESS: usize = usize::MAX;

fn terms(policy: Policy) -> Terms {
    Terms { policy, ..Terms::default() }
}

fn weighted(weight: u32) -> Terms {
    terms(Policy::Weighted { weight })
}

impl Simulation {
    fn new() -> Simulation {
        Simulation::shared(Sharing::default())
    }

    fn shared(sharing: Sharing) -> Simulation {
        Simulation { arbiter: Arbiter::new(sharing), guests: Vec::new(), now: 0, evicted: Vec::new() }
    }

    /// A vGPU with kernels of this length, in milliseconds, and that many of them.
    fn add(&mut self, terms: Terms, kernel_ms: f64, work: usize) -> usize {
        let id = self.guests.len();
        self.arbiter.add_account(id as u64, terms, self.now);
        self.arbiter.add_client(id as u64, id as u64, self.now);
        self.guests.push(Guest {
            word: AtomicU32::new(0),
            kernel: (kernel_ms * MS as f64) as Nanos,
            work,
            every: None,
            in_flight: VecDeque::new(),
            claim: 0,
            landed: 0,
            used: 0,
            submitted: VecDeque::new(),
            latencies: Vec::new(),
            gone: false,
        });
        id
    }

    fn update(&mut self) {
        let guests = &self.guests;
        let claim = |id: ClientId| Some((guests[id as usize].claim, guests[id as usize].landed));
        self.arbiter.update(claim, self.now);
    }

    fn rung(&mut self, id: usize) {
        self.update();
        let look = word::look(&self.guests[id].word);
        self.arbiter.rung(id as u64, look, self.guests[id].claim, self.now);
        self.carry_out();
    }

    fn carry_out(&mut self) {
        loop {
            let orders = self.arbiter.take_orders();
            if orders.is_empty() {
                return;
            }
            for order in orders {
                let (Order::Lend(id, _)
                | Order::Contend(id, _)
                | Order::Take(id)
                | Order::Observe(id)
                | Order::Evict(id)) = order;
                let guest = &mut self.guests[id as usize];
                let back = match order {
                    Order::Lend(_, contended) => {
                        if word::lend(&guest.word, contended) {
                            self.arbiter.lent(id, guest.claim, guest.landed);
                        } else {
                            self.arbiter.not_lent(id, self.now);
                        }
                        false
                    }
                    Order::Contend(_, contended) => word::contend(&guest.word, contended) == Taken::Back,
                    Order::Take(_) => word::take(&guest.word) == Taken::Back,
                    Order::Observe(_) => {
                        let idle =
                            word::look(&guest.word) == Look::Idle && self.arbiter.has_seen(id, guest.landed);
                        let back = idle && word::take(&guest.word) == Taken::Back;
                        if !back {
                            self.arbiter.observe(id, guest.claim, guest.landed, self.now);
                        }
                        back
                    }
                    Order::Evict(_) => {
                        self.evicted.push(id);
                        guest.gone = true;
                        self.arbiter.remove_client(id, None, self.now);
                        false
                    }
                };
                if back {
                    self.arbiter.taken(id, self.guests[id as usize].claim, self.now);
                }
            }
        }
    }

    /// What an executor does when it may: sends ahead, gives back, asks.
    fn drive(&mut self, id: usize) {
        let now = self.now;
        let guest = &mut self.guests[id];
        if guest.gone {
            return;
        }
        if let Some(every) = guest.every
            && now.is_multiple_of(every)
        {
            guest.work += 1;
            guest.submitted.push_back(now);
        }
        while guest.work > 0 {
            match word::begin(&guest.word) {
                Begin::Go { contended } => {
                    if guest.in_flight.iter().sum::<Nanos>() >= AHEAD[usize::from(contended)] {
                        return;
                    }
                    guest.in_flight.push_back(guest.kernel);
                    guest.work -= usize::from(guest.work != ENDLESS);
                }
                Begin::Wait { ring: true } => return self.rung(id),
                Begin::Wait { ring: false } => return,
                Begin::GiveBack => {
                    if guest.in_flight.is_empty() && word::settle(&guest.word, true) {
                        self.rung(id);
                    }
                    return;
                }
            }
        }
        if guest.in_flight.is_empty() && word::settle(&guest.word, false) {
            self.rung(id);
        }
    }

    fn step(&mut self) {
        for id in 0..self.guests.len() {
            self.drive(id);
        }
        let at_work = self.guests.iter().filter(|guest| !guest.in_flight.is_empty() && !guest.gone).count();
        for guest in self.guests.iter_mut().filter(|guest| !guest.gone) {
            let Some(left) = guest.in_flight.front_mut() else { continue };
            // What is in flight at once shares the device.
            let progress = STEP / at_work as u64;
            *left = left.saturating_sub(progress);
            guest.used += progress;
            if *left == 0 {
                guest.in_flight.pop_front();
                guest.claim += guest.kernel;
                guest.landed += 1;
                if let Some(submitted) = guest.submitted.pop_front() {
                    guest.latencies.push(self.now + STEP - submitted);
                }
            }
        }
        self.now += STEP;
        while self.arbiter.next_tick().is_some_and(|next| next <= self.now) {
            self.update();
            self.arbiter.tick(self.now);
            self.carry_out();
        }
    }

    /// Runs for so long; returns the percentage of the time that each used.
    fn run(&mut self, ms: u64) -> Vec<f64> {
        let before: Vec<Nanos> = self.guests.iter().map(|guest| guest.used).collect();
        let until = self.now + ms * MS;
        while self.now < until {
            self.step();
        }
        let used = self.guests.iter().zip(before).map(|(guest, before)| guest.used - before);
        used.map(|used| used as f64 / (ms * MS) as f64 * 100.0).collect()
    }
}

fn assert_close(shares: &[f64], expected: &[f64], within: f64) {
    let close = shares.iter().zip(expected).all(|(share, expected)| (share - expected).abs() <= within);
    assert!(close && shares.len() == expected.len(), "{shares:.1?}, not {expected:.1?}");
}

#[test]
fn weights_divide_the_device() {
    let mut simulation = Simulation::new();
    for weight in [100, 200, 400] {
        simulation.add(weighted(weight), 1.0, ENDLESS);
    }
    assert_close(&simulation.run(10_000), &[14.3, 28.6, 57.1], 1.0);
}

#[test]
fn long_kernels_get_no_more_than_short_ones() {
    let mut simulation = Simulation::new();
    for kernel in [1.0, 5.0, 20.0] {
        simulation.add(weighted(100), kernel, ENDLESS);
    }
    assert_close(&simulation.run(10_000), &[33.3, 33.3, 33.3], 1.0);
}

#[test]
fn what_one_leaves_the_others_get() {
    let mut simulation = Simulation::new();
    for work in [ENDLESS, ENDLESS, 0] {
        simulation.add(weighted(100), 1.0, work);
    }
    assert_close(&simulation.run(5_000), &[50.0, 50.0, 0.0], 1.0);
    // And one that comes back has saved nothing up.
    simulation.guests[2].work = ENDLESS;
    assert_close(&simulation.run(5_000), &[33.3, 33.3, 33.3], 1.0);
}

#[test]
fn a_fixed_share_is_had_and_not_exceeded_even_on_a_free_device() {
    let mut simulation = Simulation::new();
    simulation.add(terms(Policy::FixedShare { share: 25.0 }), 1.0, ENDLESS);
    assert_close(&simulation.run(5_000), &[25.0], 1.5);
    simulation.add(weighted(10_000), 5.0, ENDLESS);
    assert_close(&simulation.run(5_000), &[25.0, 75.0], 2.0);
    // A cap limits the other in the same way.
    simulation.arbiter.set_terms(1, Terms { cap: Some(50.0), ..weighted(1) }, simulation.now);
    assert_close(&simulation.run(5_000), &[25.0, 50.0], 2.0);
}

#[test]
fn equal_shares_are_parts_of_those_that_are_there() {
    let mut simulation = Simulation::new();
    for _ in 0..4 {
        simulation.add(terms(Policy::EqualShare), 1.0, 0);
    }
    simulation.guests[0].work = ENDLESS;
    assert_close(&simulation.run(5_000), &[25.0, 0.0, 0.0, 0.0], 1.5);
    for gone in [2, 3] {
        simulation.arbiter.remove_client(gone, None, simulation.now);
    }
    assert_close(&simulation.run(5_000), &[50.0, 0.0, 0.0, 0.0], 1.5);
    simulation.guests[1].work = ENDLESS;
    assert_close(&simulation.run(5_000), &[50.0, 50.0, 0.0, 0.0], 1.5);
}

#[test]
fn best_effort_has_what_others_leave_and_never_stands_still() {
    let mut simulation = Simulation::new();
    simulation.add(terms(Policy::BestEffort), 1.0, ENDLESS);
    assert_close(&simulation.run(1_000), &[100.0], 0.5);
    simulation.add(weighted(100), 1.0, ENDLESS);
    let shares = simulation.run(10_000);
    assert!(shares[0] > 0.3 && shares[0] < 3.0, "{shares:.1?}");
}

#[test]
fn a_deadline_is_met_while_others_flood_the_device() {
    let mut simulation = Simulation::new();
    let kernels = [1.0, 2.0, 5.0, 5.0, 10.0, 20.0, 20.0];
    for kernel in kernels {
        simulation.add(weighted(100), kernel, ENDLESS);
    }
    let late = simulation.add(terms(Policy::Deadline { target_ms: 5, share: 50.0 }), 1.0, 0);
    simulation.guests[late].every = Some(50 * MS);
    simulation.run(20_000);
    let mut latencies = simulation.guests[late].latencies.clone();
    latencies.sort_unstable();
    assert!(latencies.len() > 380);
    let worst = latencies[latencies.len() * 99 / 100];
    assert!(worst <= 25 * MS, "{} us", worst / 1000);
    // One that floods, too, is a weighted one beyond its share.
    simulation.guests[late].every = None;
    simulation.guests[late].work = ENDLESS;
    let shares = simulation.run(10_000);
    assert!((45.0..60.0).contains(&shares[late]), "{shares:.1?}");
    assert!(shares[..7].iter().all(|share| *share > 5.0), "{shares:.1?}");
}

#[test]
fn several_leases_run_several_at_once() {
    let mut simulation = Simulation::shared(Sharing { leases: 2, ..Sharing::default() });
    for _ in 0..4 {
        simulation.add(weighted(100), 2.0, ENDLESS);
    }
    let mut most = 0;
    for _ in 0..10_000 {
        simulation.step();
        most = most.max(simulation.guests.iter().filter(|guest| !guest.in_flight.is_empty()).count());
    }
    assert_eq!(most, 2);
    assert_close(&simulation.run(4_000), &[25.0; 4], 2.0);
}

#[test]
fn nobody_wakes_for_those_who_do_nothing() {
    let mut simulation = Simulation::new();
    for _ in 0..10 {
        simulation.add(weighted(100), 1.0, 3);
    }
    simulation.run(5_000);
    assert!(simulation.guests.iter().all(|guest| guest.landed == 3));
    assert_eq!(simulation.arbiter.next_tick(), None, "even the last lease has been taken back");
}

#[test]
fn a_kernel_that_never_ends_is_evicted_whether_others_wait_or_not() {
    for others in [0, 3] {
        let mut simulation = Simulation::new();
        let (limit, back_off) = (Duration::from_secs(2), Duration::from_secs(1));
        let eviction = Eviction { limit, back_off, ..Eviction::default() };
        simulation.add(Terms { eviction, ..Terms::default() }, 1e9, ENDLESS);
        for _ in 0..others {
            simulation.add(weighted(100), 1.0, ENDLESS);
        }
        simulation.run(4_000);
        assert_eq!(simulation.evicted, [0]);
        let shares = simulation.run(3_000);
        assert_close(&shares[1..], &vec![100.0 / f64::from(others); others as usize], 2.0);
        // Its next executor waits for the end of the back-off.
        let standing = simulation.arbiter.standing(0, simulation.now);
        assert!(!standing.paused && !standing.backed_off && standing.connections == 0);
    }
}

#[test]
fn whoever_gets_more_weight_does_not_pay_for_what_it_had_with_less() {
    let mut simulation = Simulation::new();
    simulation.add(weighted(1), 9.0, ENDLESS);
    simulation.add(weighted(100), 9.0, ENDLESS);
    simulation.run(2_000);
    simulation.update();
    simulation.arbiter.set_terms(0, weighted(100), simulation.now);
    simulation.carry_out();
    simulation.run(50);
    assert_close(&simulation.run(2_000), &[50.0, 50.0], 2.0);
}

#[test]
fn a_kernel_that_is_stuck_when_somebody_comes_has_no_more_time_than_any_other() {
    let mut simulation = Simulation::new();
    let eviction = Eviction { limit: Duration::from_secs(2), ..Eviction::default() };
    simulation.add(Terms { eviction, ..Terms::default() }, 1e9, ENDLESS);
    simulation.run(1_500);
    simulation.add(weighted(100), 1.0, ENDLESS);
    simulation.run(400);
    assert!(simulation.evicted.is_empty());
    simulation.run(300);
    assert_eq!(simulation.evicted, [0]);
}

#[test]
fn a_paused_vgpu_gets_nothing_until_it_is_resumed() {
    let mut simulation = Simulation::new();
    simulation.add(weighted(100), 1.0, ENDLESS);
    simulation.add(weighted(100), 1.0, ENDLESS);
    simulation.run(100);
    simulation.arbiter.set_paused(0, true, simulation.now);
    simulation.carry_out();
    simulation.run(100);
    assert_close(&simulation.run(1_000), &[0.0, 100.0], 0.5);
    simulation.update();
    simulation.arbiter.set_paused(0, false, simulation.now);
    simulation.carry_out();
    assert_close(&simulation.run(1_000), &[50.0, 50.0], 2.0);
}

#[test]
fn a_holder_is_charged_for_all_of_its_time_while_others_wait_whatever_it_claims() {
    let mut simulation = Simulation::new();
    simulation.add(weighted(100), 4.0, ENDLESS);
    simulation.add(weighted(100), 4.0, ENDLESS);
    for _ in 0..50_000 {
        simulation.guests[0].claim = 0;
        simulation.step();
    }
    let used: Vec<f64> =
        simulation.guests.iter().map(|guest| guest.used as f64 / 50_000.0 / STEP as f64 * 100.0).collect();
    assert_close(&used, &[50.0, 50.0], 1.0);
}

#[test]
fn whoever_writes_nonsense_into_its_word_takes_no_more_than_its_part_from_the_others() {
    let mut simulation = Simulation::new();
    let eviction = Eviction { limit: Duration::from_millis(100), pause_after: 0, ..Eviction::default() };
    simulation.add(Terms { eviction, ..Terms::default() }, 1.0, 0);
    simulation.add(weighted(100), 1.0, ENDLESS);
    simulation.add(weighted(100), 5.0, ENDLESS);
    let mut random = 1_u64;
    let mut steps = 0;
    let before: Vec<Nanos> = simulation.guests.iter().map(|guest| guest.used).collect();
    while simulation.now < 20_000 * MS {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let [noise, claim] = [random >> 33, random >> 20];
        // Any state and any flags, and sometimes nothing for a while, so that it holds what it got.
        if noise % 7 < 5 {
            simulation.guests[0].word.store((noise % 16) as u32, std::sync::atomic::Ordering::SeqCst);
        }
        simulation.guests[0].claim = claim;
        if noise % 3 == 0 {
            simulation.rung(0);
        }
        if simulation.guests[0].gone {
            // The next executor of the same vGPU.
            simulation.guests[0].gone = false;
            simulation.guests[0].word.store(0, std::sync::atomic::Ordering::SeqCst);
            simulation.arbiter.add_client(0, 0, simulation.now);
        }
        simulation.step();
        steps += 1;
    }
    for honest in [1, 2] {
        let share = (simulation.guests[honest].used - before[honest]) as f64 / (steps * STEP) as f64 * 100.0;
        assert!(share > 30.0, "{honest} got {share:.1} %");
    }
}

#[test]
fn whatever_is_done_to_it_the_device_is_never_lent_twice_and_its_work_goes_on() {
    use proptest::prelude::*;
    let change = (0..6_u8, 0..5_u64, 1..60_u32);
    proptest!(ProptestConfig::with_cases(60), |(changes in proptest::collection::vec(change, 1..60))| {
        let mut simulation = Simulation::new();
        for kernel in [0.3, 1.0, 3.0, 9.0, 30.0] {
            simulation.add(weighted(100), kernel, ENDLESS);
        }
        for (what, who, how) in changes {
            simulation.update();
            let now = simulation.now;
            let arbiter = &mut simulation.arbiter;
            match what {
                0 => arbiter.set_paused(who, how % 2 == 0, now),
                1 => arbiter.set_terms(who, terms(Policy::FixedShare { share: f64::from(how) / 5.0 }), now),
                2 => arbiter.set_terms(who, weighted(how), now),
                3 => arbiter.set_terms(who, terms(Policy::Deadline { target_ms: how, share: 20.0 }), now),
                4 => arbiter.set_terms(who, terms(Policy::EqualShare), now),
                _ => simulation.guests[who as usize].work = if how % 2 == 0 { 0 } else { ENDLESS },
            }
            simulation.carry_out();
            for _ in 0..how {
                simulation.step();
                let busy = simulation.guests.iter().filter(|guest| !guest.in_flight.is_empty()).count();
                prop_assert!(busy <= 1, "{busy} at once");
            }
        }
        simulation.update();
        for who in 0..5 {
            simulation.arbiter.set_paused(who, false, simulation.now);
            simulation.arbiter.set_terms(who, weighted(100), simulation.now);
            simulation.guests[who as usize].work = ENDLESS;
        }
        simulation.carry_out();
        // Debts are paid by then.
        simulation.run(3_000);
        let shares = simulation.run(3_000);
        prop_assert!(shares.iter().all(|share| (share - 20.0).abs() < 3.0), "{shares:.1?}");
    });
}

#[test]
fn another_executor_of_a_vgpu_does_not_get_the_device_by_an_eviction() {
    let mut arbiter = Arbiter::new(Sharing::default());
    let (limit, back_off) = (Duration::from_secs(1), Duration::from_secs(2));
    let eviction = Eviction { limit, back_off, ..Eviction::default() };
    arbiter.add_account(7, Terms { eviction, ..Terms::default() }, 0);
    for id in 0..2 {
        arbiter.add_client(id, 7, 0);
        arbiter.rung(id, Look::Wanted, 0, 0);
    }
    // Nobody carries the orders out; time goes on all the same.
    let mut told = Vec::new();
    for now in (0..5_000).step_by(10).map(|millis| millis * MS) {
        arbiter.tick(now);
        told.extend(arbiter.take_orders().into_iter().map(|order| (now / MS, order)));
    }
    let when = |wanted: fn(&Order) -> bool| told.iter().find(|(_, order)| wanted(order)).map(|(at, _)| *at);
    let evicted = when(|order| *order == Order::Evict(0)).unwrap();
    let lent = when(|order| matches!(order, Order::Lend(1, _))).unwrap();
    assert!(lent >= evicted + 2_000, "evicted after {evicted} ms, lent after {lent} ms");
}
