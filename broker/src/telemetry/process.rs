//! The process as the operating system and the runtime see it, looked at when somebody asks. Names and meanings are those
//! that Prometheus' own clients have.

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};
use tokio::runtime::{Handle, RuntimeMetrics};

/// Reads `/proc/self`, and asks the runtime that it is called in.
#[derive(Debug)]
pub(super) struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        // What cannot be read is left out: a dashboard shows a gap, and not a zero.
        if let Ok(seen) = Seen::now() {
            seen.encode(&mut encoder)?;
        }
        match Handle::try_current() {
            Ok(runtime) => runtime_of(&runtime.metrics(), &mut encoder),
            Err(_) => Ok(()),
        }
    }
}

struct Seen {
    cpu_seconds: f64,
    resident_bytes: u64,
    virtual_bytes: u64,
    threads: i64,
    open_files: u64,
    open_files_max: u64,
    started_at_seconds: f64,
}

impl Seen {
    #[expect(clippy::cast_precision_loss, reason = "a float is what the exposition has")]
    fn now() -> Result<Self, procfs::ProcError> {
        let this = procfs::process::Process::myself()?;
        let (stat, limits) = (this.stat()?, this.limits()?);
        let ticks_a_second = procfs::ticks_per_second() as f64;
        let open_files_max = match limits.max_open_files.soft_limit {
            procfs::process::LimitValue::Value(most) => most,
            procfs::process::LimitValue::Unlimited => u64::MAX,
        };
        Ok(Self {
            cpu_seconds: (stat.utime + stat.stime) as f64 / ticks_a_second,
            resident_bytes: stat.rss * procfs::page_size(),
            virtual_bytes: stat.vsize,
            threads: stat.num_threads,
            open_files: u64::try_from(this.fd_count()?).unwrap_or(u64::MAX),
            open_files_max,
            started_at_seconds: procfs::boot_time_secs()? as f64 + stat.starttime as f64 / ticks_a_second,
        })
    }

    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> std::fmt::Result {
        counter(
            encoder,
            "process_cpu_seconds",
            "User and system time that the process has spent",
            self.cpu_seconds,
        )?;
        gauge(
            encoder,
            "process_resident_memory_bytes",
            "Memory of the process that is in RAM",
            self.resident_bytes,
        )?;
        gauge(
            encoder,
            "process_virtual_memory_bytes",
            "Addresses that the process has reserved",
            self.virtual_bytes,
        )?;
        let help = "Threads of the process";
        gauge(encoder, "process_threads", help, u64::try_from(self.threads).unwrap_or(0))?;
        gauge(encoder, "process_open_fds", "Files and sockets that are open", self.open_files)?;
        gauge(encoder, "process_max_fds", "As many as may be open", self.open_files_max)?;
        let help = "When the process started, in seconds since 1970";
        gauge_f(encoder, "process_start_time_seconds", help, self.started_at_seconds)
    }
}

fn runtime_of(runtime: &RuntimeMetrics, encoder: &mut DescriptorEncoder<'_>) -> std::fmt::Result {
    let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let busy = (0..runtime.num_workers()).map(|worker| runtime.worker_total_busy_duration(worker));
    let busy: std::time::Duration = busy.sum();
    gauge(encoder, "countersign_runtime_workers", "Threads that run tasks", number(runtime.num_workers()))?;
    gauge(
        encoder,
        "countersign_runtime_tasks",
        "Tasks that are not over",
        number(runtime.num_alive_tasks()),
    )?;
    let help = "Tasks that wait for any worker";
    gauge(encoder, "countersign_runtime_queue_depth", help, number(runtime.global_queue_depth()))?;
    counter(
        encoder,
        "countersign_runtime_busy_seconds",
        "Time that workers have spent on tasks, all together",
        busy.as_secs_f64(),
    )
}

fn counter(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: f64) -> std::fmt::Result {
    let encoder = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    ConstCounter::new(value).encode(encoder)
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> std::fmt::Result {
    let encoder = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    ConstGauge::new(value).encode(encoder)
}

fn gauge_f(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: f64) -> std::fmt::Result {
    let encoder = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    ConstGauge::new(value).encode(encoder)
}
