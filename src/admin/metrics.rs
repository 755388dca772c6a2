//! Prometheus's metrics, made of what there is to see when they are fetched. Processes of guests are in the JSON only:
//! their number has no bound that a time series database would like.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeMetric, MetricEncoder, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::registry::mailbox::{DeviceView, VgpuView, View};
use crate::sched::usage::{DELAY_BOUNDS_US, Delays, Standing};

/// What the text is called.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const STANDINGS: [(&str, Standing); 6] = [
    ("offline", Standing::Offline),
    ("idle", Standing::Idle),
    ("waiting", Standing::Waiting),
    ("running", Standing::Running),
    ("backed-off", Standing::BackedOff),
    ("paused", Standing::Paused),
];

/// The metrics as OpenMetrics text.
pub fn encode(view: View) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("paragpu");
    registry.register_collector(Box::new(Snapshot(view)));
    let mut body = String::new();
    text::encode(&mut body, &registry)?;
    Ok(body)
}

#[derive(Debug)]
struct Snapshot(View);

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let to = &mut encoder;
        let View { vgpus, devices } = &self.0;
        counters(to, "device_seconds", "Device time that a vGPU has used.", vgpus, |vgpu| {
            seconds(vgpu.usage.usage.device_ns)
        })?;
        counters(to, "launches", "Kernels that a vGPU has launched.", vgpus, |vgpu| {
            vgpu.usage.usage.launches
        })?;
        counters(to, "evictions", "Executors ended because a submission ran too long.", vgpus, |vgpu| {
            vgpu.usage.evictions
        })?;
        counters(to, "cpu_seconds", "Processor time of a vGPU's executors.", vgpus, |vgpu| {
            seconds(vgpu.usage.cpu_ns)
        })?;
        gauges(to, "memory_bytes", "Device memory that a vGPU has in use.", vgpus, |vgpu| {
            vgpu.usage.usage.memory_bytes
        })?;
        gauges(to, "connections", "Connections of a vGPU.", vgpus, |vgpu| vgpu.connections.len() as u64)?;
        bytes(to, vgpus)?;
        queueing(to, vgpus)?;
        standings(to, vgpus)?;
        of_devices(to, devices)?;
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        let mut family = family(to, "build_info", "Which paragpud this is.", MetricType::Gauge)?;
        ConstGauge::new(1_u64).encode(family.encode_family(&version)?)
    }
}

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

fn family<'e>(
    to: &'e mut DescriptorEncoder<'_>,
    name: &'e str,
    help: &str,
    kind: MetricType,
) -> Result<MetricEncoder<'e>, fmt::Error> {
    to.encode_descriptor(name, help, None, kind)
}

fn of(vgpu: &VgpuView) -> [(&'static str, &str); 1] {
    [("vgpu", &vgpu.name)]
}

fn counters<N>(
    to: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    vgpus: &[VgpuView],
    value: impl Fn(&VgpuView) -> N,
) -> fmt::Result
where
    N: EncodeCounterValue,
{
    let mut family = family(to, name, help, MetricType::Counter)?;
    for vgpu in vgpus {
        ConstCounter::new(value(vgpu)).encode(family.encode_family(&of(vgpu))?)?;
    }
    Ok(())
}

fn gauges<N>(
    to: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    vgpus: &[VgpuView],
    value: impl Fn(&VgpuView) -> N,
) -> fmt::Result
where
    N: EncodeGaugeValue,
{
    let mut family = family(to, name, help, MetricType::Gauge)?;
    for vgpu in vgpus {
        ConstGauge::new(value(vgpu)).encode(family.encode_family(&of(vgpu))?)?;
    }
    Ok(())
}

fn bytes(to: &mut DescriptorEncoder<'_>, vgpus: &[VgpuView]) -> fmt::Result {
    let help = "Bytes that went to and came from the device.";
    let mut family = family(to, "bytes", help, MetricType::Counter)?;
    for vgpu in vgpus {
        let usage = vgpu.usage.usage;
        for (direction, bytes) in
            [("to-device", usage.bytes_to_device), ("from-device", usage.bytes_from_device)]
        {
            let labels = [("vgpu", vgpu.name.as_str()), ("direction", direction)];
            ConstCounter::new(bytes).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

fn queueing(to: &mut DescriptorEncoder<'_>, vgpus: &[VgpuView]) -> fmt::Result {
    let help = "Time from wanting the device to having it.";
    let mut family = family(to, "queueing_seconds", help, MetricType::Histogram)?;
    for vgpu in vgpus {
        let delays: &Delays = &vgpu.usage.queueing;
        let bounds = DELAY_BOUNDS_US.iter().map(|micros| *micros as f64 / 1e6).chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(delays.counts).collect();
        let sum = seconds(delays.sum_ns);
        let no_exemplars: Option<&std::collections::HashMap<usize, _>> = None;
        let labels = of(vgpu);
        let mut metric = family.encode_family(&labels)?;
        metric.encode_histogram::<[(&str, &str); 0]>(sum, delays.count(), &buckets, no_exemplars)?;
    }
    Ok(())
}

fn standings(to: &mut DescriptorEncoder<'_>, vgpus: &[VgpuView]) -> fmt::Result {
    let help = "How a vGPU stands with the device: 1 for that, 0 for the others.";
    let mut family = family(to, "standing", help, MetricType::Gauge)?;
    for vgpu in vgpus {
        for (name, standing) in STANDINGS {
            let labels = [("vgpu", vgpu.name.as_str()), ("standing", name)];
            ConstGauge::new(u64::from(vgpu.usage.standing == standing))
                .encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

fn of_devices(to: &mut DescriptorEncoder<'_>, devices: &[DeviceView]) -> fmt::Result {
    let help = "Time for which somebody was running on a device.";
    let mut busy = family(to, "device_busy_seconds", help, MetricType::Counter)?;
    for device in devices {
        let labels = [("device", device.usage.name.as_str())];
        ConstCounter::new(seconds(device.usage.busy_ns)).encode(busy.encode_family(&labels)?)?;
    }
    let holders = |device: &DeviceView| device.usage.holders.len();
    device_gauges(to, "device_holders", "vGPUs that have a device now.", devices, holders)?;
    let waiting = |device: &DeviceView| device.usage.waiting.len();
    device_gauges(to, "device_waiting", "vGPUs that wait for a device now.", devices, waiting)
}

fn device_gauges(
    to: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    devices: &[DeviceView],
    count: impl Fn(&DeviceView) -> usize,
) -> fmt::Result {
    let mut family = family(to, name, help, MetricType::Gauge)?;
    for device in devices {
        let labels = [("device", device.usage.name.as_str())];
        ConstGauge::new(count(device) as u64).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}
