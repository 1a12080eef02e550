//! Runs with known figures, for the tests of the renderers.
#![forbid(unsafe_code)]

use crate::results::{
    Account, Alerts, Connects, FormatResult, FormatShare, Generator, Latency, Machine, Pacing, ProfileFacts,
    Repetition, Run, SCHEMA, Second, Sends, ServerUse, SlowReaders, Versions,
};

/// Three repetitions of a server called `tickcast`, with everything measured.
pub(super) fn run() -> Run {
    Run {
        schema: SCHEMA,
        name: "before <b>&\"it\"".into(),
        profile: ProfileFacts {
            name: "fan1k".into(),
            about: "One message to a thousand subscribers.".into(),
            pacing: Pacing::Rate { per_second: 2_000.0 },
            subscribers: 1_000,
            slow_readers: 10,
            publishers: 1,
            topics: 64,
            topics_per_subscriber: 64,
            frame_bytes: 128,
            message_type: "public_trade".into(),
            formats: vec![
                FormatShare { format: "binary".into(), subscribers: 500 },
                FormatShare { format: "d1-snake".into(), subscribers: 500 },
            ],
            measure_ns: 30_000_000_000,
            warm_up_ns: 3_000_000_000,
            class: None,
            alert_every_ns: None,
            accounts: false,
            overrides: vec!["rate=2000".into()],
        },
        command: ["loadtest", "run", "fan1k", "--name", "before <b>&\"it\""].map(String::from).to_vec(),
        started_at: "2026-01-02T03:04:05Z".into(),
        machine: Machine {
            cpu_model: "Example CPU 9000".into(),
            cores: 2,
            kernel: "6.18.5".into(),
            governor: Some("performance".into()),
            descriptors_max: 65_536,
            memory_bytes: 8 << 30,
            host: "box".into(),
            load_average: Some(0.3),
            generator_core: Some(1),
            server_core: Some(0),
        },
        versions: Versions {
            loadtest: "0.1.0".into(),
            commit: Some("0123abc".into()),
            server: Some("tickcast 0.1.0".into()),
        },
        repetitions: (1..=3).map(|number| repetition("tickcast", number, 1.0)).collect(),
        comparisons: Vec::new(),
        notes: vec!["The soft limit of descriptors was raised to 65,536.".into()],
    }
}

/// A pair run: `tickcast` needs 1.25 times what the ceiling needs.
pub(super) fn pair() -> Run {
    let mut run = run();
    run.repetitions = (1..=3)
        .flat_map(|number| {
            [repetition("tickcast", number, 1.0), repetition("ceiling-coalesced", number, 0.8)]
        })
        .collect();
    run
}

/// The same run with alerts beside it, every account checked and whole.
pub(super) fn alerts() -> Run {
    let mut run = run();
    run.profile.alert_every_ns = Some(10_000_000);
    run.profile.accounts = true;
    for repetition in &mut run.repetitions {
        let slowness = 1.0 + 0.02 * repetition.number as f64;
        repetition.alerts = Some(Alerts {
            published: 3_000,
            expected: 3_000_000,
            delivered: 3_000_000,
            as_felt: Some(latency(410_000.0 * slowness, 3_000_000)),
            service_only: Some(latency(400_000.0 * slowness, 3_000_000)),
            last_subscriber: Some(latency(910_000.0 * slowness, 3_000)),
            last_subscriber_service: Some(latency(900_000.0 * slowness, 3_000)),
            schedule_lag_p99_ns: 20_000,
            schedule_lag_max_ns: 70_000,
            ..Alerts::default()
        });
        repetition.account = Some(Account {
            published: 69_000_012,
            received: 69_000_000,
            conflated: 12,
            ..Account::default()
        });
    }
    run
}

/// The same run with every repetition limited by the generator.
pub(super) fn limited() -> Run {
    let mut run = run();
    for repetition in &mut run.repetitions {
        repetition.generator.generator_limited = true;
        repetition.generator.reason = "its schedule lag was 0.4 ms, more than a tenth of p50".into();
    }
    run
}

/// One repetition whose times are all multiplied by `slowness`.
pub(super) fn repetition(target: &str, number: u64, slowness: f64) -> Repetition {
    let slowness = slowness * (1.0 + 0.02 * number as f64);
    let delivered = 60_000_000;
    let wire_bytes = delivered * 132;
    Repetition {
        target: target.into(),
        number,
        started_at: "2026-01-02T03:04:05Z".into(),
        elapsed_ns: 30_000_000_000,
        offered_per_s: Some(2_000.0),
        achieved_per_s: 2_000.0,
        published: 60_000,
        expected: delivered,
        delivered,
        deliveries_per_s: 2_000_000.0 / slowness,
        wire_bytes,
        conflated_told: 12,
        by_format: ["binary", "d1-snake"]
            .map(|format| FormatResult {
                format: format.into(),
                delivered: delivered / 2,
                wire_bytes: wire_bytes / 2,
                bytes_per_delivery: 132.0,
                as_felt: Some(latency(900_000.0 * slowness, 1_000_000)),
            })
            .to_vec(),
        as_felt: Some(latency(840_000.0 * slowness, 1_000_000)),
        service_only: Some(latency(790_000.0 * slowness, 1_000_000)),
        last_subscriber: Some(latency(2_100_000.0 * slowness, 60_000)),
        last_subscriber_service: Some(latency(2_000_000.0 * slowness, 60_000)),
        seconds: (0..30)
            .map(|at_s| Second {
                at_s,
                delivered: 2_000_000 - 900 * (at_s * number % 7),
                published: 2_000,
                p50_ns: (840_000.0 * slowness) as u64 + 9_000 * (at_s % 5),
                p99_ns: (3_100_000.0 * slowness) as u64 + 200_000 * (at_s * number % 11),
                lost: 0,
                server_cpu_ns: Some(880_000_000 - 3_000_000 * (at_s % 9)),
                server_rss_bytes: Some((200 << 20) + (at_s * number) * 65_536),
            })
            .collect(),
        generator: Generator {
            schedule_lag_p99_ns: 60_000,
            schedule_lag_max_ns: 410_000,
            cpu_share: 0.71,
            reads: 1_000_000,
            ..Generator::default()
        },
        server: Some(ServerUse {
            pid: 4242,
            cpu_s: 26.4 * slowness,
            cpu_system_s: 24.0 * slowness,
            cpu_share: 0.88 * slowness,
            cpu_per_delivery_ns: Some(440.0 * slowness),
            rss_before_bytes: 12 << 20,
            rss_connected_bytes: 14 << 20,
            rss_after_bytes: 212 << 20,
            rss_peak_bytes: 220 << 20,
            kib_per_connection: Some(1.9),
            context_switches: Some(41_000),
            ..ServerUse::default()
        }),
        sends: Some(Sends {
            sends: 4_000_000,
            messages: delivered,
            bytes: wire_bytes,
            messages_per_send: 15.0,
            bytes_per_send: 1_980.0,
        }),
        connects: Some(Connects {
            upgrades: 1_010,
            failed: 0,
            upgrades_per_s: 8_200.0,
            time: Some(latency(110_000.0, 1_010)),
        }),
        slow: Some(SlowReaders {
            count: 10,
            bytes_each: Some(61_440.0),
            source: "rss".into(),
            disconnected: 0,
            p99_without_ns: Some(3_000_000),
            p99_ratio: Some(1.03),
        }),
        ..Repetition::default()
    }
}

/// A long-tailed distribution around `median_ns`, as an HDR histogram would hold it.
pub(super) fn latency(median_ns: f64, count: u64) -> Latency {
    // The value at each quantile: two thirds of the median at the bottom, the tail a power of what is left.
    let at = |quantile: f64| (median_ns * (0.6 + 0.32 * (1.0 / (1.0 - quantile)).powf(0.33))) as u64;
    let mut buckets: Vec<(u64, u64)> = Vec::new();
    let mut before = 0;
    for step in 1..=240_i32 {
        let quantile = 1.0 - 10_f64.powf(-f64::from(step) / 40.0);
        let through = if step == 240 { count } else { (quantile * count as f64) as u64 };
        if through > before {
            buckets.push((at(quantile.min(1.0 - 1e-6)), through - before));
            before = through;
        }
    }
    Latency {
        count,
        min_ns: at(0.0),
        mean_ns: median_ns * 1.1,
        p50_ns: at(0.5),
        p90_ns: at(0.9),
        p99_ns: at(0.99),
        p999_ns: at(0.999),
        max_ns: buckets.last().map_or(0, |bucket| bucket.0),
        buckets,
    }
}
