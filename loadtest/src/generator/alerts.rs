//! Alerts beside the load: an open loop of its own, on a connection of its own, in a ledger of its own, so that
//! what they take is told apart from what the messages around them take.
#![forbid(unsafe_code)]

use std::time::Duration;

use super::Generator;
use crate::ledger::Ledger;
use crate::plan::Plan;
use crate::template::{ALERT_FRAME_BYTES, Kind, Template};

/// What is published beside the load.
#[derive(Debug)]
pub struct Alerts {
    every_ns: u64,
    pub(super) template: Template,
    sequence: u32,
    subscribers: u32,
    /// Next sequence of each subscriber.
    pub(super) next: Vec<u32>,
    /// The account of their deliveries.
    pub ledger: Ledger,
    /// Deliveries that came again or out of order.
    pub duplicated: u64,
}

impl Alerts {
    /// For `subscribers` of so many formats.
    pub(super) fn new(every: Duration, subscribers: usize, formats: usize) -> Result<Self, String> {
        let every_ns = every.as_nanos() as u64;
        // Ten seconds of them, as of messages.
        let remembered = (10_000_000_000 / every_ns.max(1)).clamp(1_024, 1 << 20);
        Ok(Self {
            every_ns,
            template: Template::new(Kind::RiskAlert, &Plan::symbol(0), ALERT_FRAME_BYTES)?,
            sequence: 0,
            subscribers: subscribers as u32,
            next: vec![1; subscribers],
            ledger: Ledger::new(remembered as usize, formats, true),
            duplicated: 0,
        })
    }

    /// Alerts published so far.
    pub(super) const fn published(&self) -> u64 {
        self.sequence as u64
    }

    /// When alert `nth` (from 0) is due after the start.
    const fn due(&self, nth: u64) -> u64 {
        nth * self.every_ns
    }

    /// Enters a delivery; false when nobody published this number.
    #[inline]
    pub(super) fn deliver(&mut self, number: u64, subscriber: usize, format: usize, now: u64) -> bool {
        let Some(delivery) = self.ledger.look_up(number) else { return false };
        // A forgotten alert has sequence 0: that it came late is all that can be said of it.
        if let Some(next) = self.next.get_mut(subscriber).filter(|_| delivery.sequence != 0) {
            if delivery.sequence < *next {
                self.duplicated += 1;
                return true;
            }
            *next = delivery.sequence + 1;
        }
        self.ledger.deliver(number, format, now);
        true
    }
}

impl Generator<'_> {
    /// When the next alert is due; `None` when there are none or no more in this schedule.
    pub(super) fn next_alert_due(&self) -> Option<u64> {
        let (alerts, schedule) = (self.alerts.as_ref()?, self.schedule?);
        Some(schedule.start + alerts.due(schedule.alert)).filter(|due| *due < schedule.end)
    }

    /// Sends the alerts that are due now; false when there is none, or their socket is full.
    pub(super) fn publish_alerts(&mut self, now: u64) -> bool {
        if !self.publishers.last().is_some_and(|publisher| publisher.out.is_empty()) {
            return false;
        }
        let mut any = false;
        while let Some(planned) = self.next_alert_due().filter(|due| *due <= now) {
            let (Some(alerts), Some(schedule)) = (&mut self.alerts, &mut self.schedule) else { break };
            let Some(publisher) = self.publishers.last_mut() else { break };
            if schedule.lag_counts {
                alerts.ledger.lag(now - planned.max(publisher.free_since).min(now));
            }
            alerts.sequence += 1;
            let number = alerts.ledger.publish(0, alerts.sequence, alerts.subscribers, planned, now);
            alerts.template.append(number, self.clock.unix(planned), &mut publisher.out);
            publisher.numbers.push(number);
            schedule.alert += 1;
            any = true;
        }
        if any {
            self.flush(self.first_publisher + self.publishers.len() - 1);
        }
        any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alert_is_entered_once_for_each_subscriber_and_strange_ones_are_refused() {
        let mut alerts = Alerts::new(Duration::from_millis(10), 2, 1).unwrap();
        alerts.ledger.measure_from_here(0);
        let numbers: Vec<u64> = (1..=2).map(|at| alerts.ledger.publish(0, at, 2, 0, 0)).collect();
        for subscriber in 0..2 {
            assert!(numbers.iter().all(|number| alerts.deliver(*number, subscriber, 0, 1_000)));
        }
        assert!(alerts.deliver(numbers[0], 1, 0, 1_000));
        assert!(!alerts.deliver(99, 0, 0, 1_000));
        assert_eq!((alerts.ledger.delivered, alerts.ledger.expected, alerts.duplicated), (4, 4, 1));
        assert_eq!(alerts.ledger.in_flight(), 0);
    }
}
