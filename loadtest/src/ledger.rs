//! The account of a run: when each message was planned and sent, and what became of its deliveries.
//!
//! A receiver looks a message up by its number, so planned times travel without help from the server. The
//! ledger remembers the newest [`Ledger::capacity`] messages; a delivery of an older one counts as delivered,
//! with the age of the oldest that is remembered. Recording a delivery allocates nothing.
#![forbid(unsafe_code)]

use hdrhistogram::Histogram;

use crate::results::{Latency, Second};

/// Longest latency that is told apart from longer ones.
const LATENCY_MAX_NS: u64 = 600_000_000_000;
/// Three decimal digits: figures are exact to a thousandth.
const DIGITS: u8 = 3;

/// Topic of a message that the ledger no longer remembers.
pub const FORGOTTEN: u32 = u32::MAX;

/// Number of an entry that was never used.
const NOBODY: u64 = u64::MAX;

/// One published message.
#[derive(Debug, Clone, Copy, Default)]
struct Entry {
    number: u64,
    planned: u64,
    sent: u64,
    topic: u32,
    /// Its number on its topic, from 1.
    sequence: u32,
    expected: u32,
    arrived: u32,
}

/// A delivery, as far as the receiver's own account needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery {
    /// Topic of the message.
    pub topic: u32,
    /// Its number on the topic, from 1.
    pub sequence: u32,
    /// Whether it was published in the time that is measured.
    pub measured: bool,
}

/// The account.
#[derive(Debug)]
pub struct Ledger {
    entries: Box<[Entry]>,
    mask: u64,
    next: u64,
    first_measured: u64,
    /// All messages before it arrived everywhere.
    complete: u64,
    /// Whether planned and sent times differ, so that both kinds are worth recording.
    open_loop: bool,
    second: Vec<Histogram<u64>>,
    felt: Vec<Histogram<u64>>,
    service: Histogram<u64>,
    last_felt: Histogram<u64>,
    last_service: Histogram<u64>,
    lag: Histogram<u64>,
    /// Counts of the time measured.
    pub published: u64,
    /// Deliveries due.
    pub expected: u64,
    /// Deliveries received.
    pub delivered: u64,
    /// When the last of them came.
    pub last_arrival: u64,
    second_began: Second,
    seconds: Vec<Second>,
}

/// A histogram of times.
#[must_use]
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_MAX_NS, DIGITS).expect("bounds that are constant")
}

/// A histogram as results have it; `None` when it is empty.
#[must_use]
pub fn latency(histogram: &Histogram<u64>) -> Option<Latency> {
    (!histogram.is_empty()).then(|| Latency {
        count: histogram.len(),
        min_ns: histogram.min(),
        mean_ns: histogram.mean(),
        p50_ns: histogram.value_at_quantile(0.50),
        p90_ns: histogram.value_at_quantile(0.90),
        p99_ns: histogram.value_at_quantile(0.99),
        p999_ns: histogram.value_at_quantile(0.999),
        max_ns: histogram.max(),
        buckets: histogram
            .iter_recorded()
            .map(|bucket| (bucket.value_iterated_to(), bucket.count_at_value()))
            .collect(),
    })
}

impl Ledger {
    /// An account that remembers at least `capacity` messages, for subscribers of so many formats.
    #[must_use]
    pub fn new(capacity: usize, formats: usize, open_loop: bool) -> Self {
        let capacity = capacity.next_power_of_two();
        Self {
            entries: vec![Entry { number: NOBODY, ..Entry::default() }; capacity].into_boxed_slice(),
            mask: capacity as u64 - 1,
            next: 1,
            first_measured: u64::MAX,
            complete: 1,
            open_loop,
            second: vec![histogram(); formats],
            felt: vec![histogram(); formats],
            service: histogram(),
            last_felt: histogram(),
            last_service: histogram(),
            lag: histogram(),
            published: 0,
            expected: 0,
            delivered: 0,
            last_arrival: 0,
            second_began: Second::default(),
            seconds: Vec::new(),
        }
    }

    /// Messages that are remembered.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.entries.len()
    }

    /// From here on messages are measured.
    pub fn measure_from_here(&mut self, now: u64) {
        self.first_measured = self.next;
        self.last_arrival = now;
    }

    /// The number of the next message.
    #[must_use]
    pub const fn next(&self) -> u64 {
        self.next
    }

    /// Messages that have not arrived at all of their subscribers.
    #[must_use]
    pub const fn in_flight(&self) -> u64 {
        self.next - self.complete
    }

    /// Enters a message that is about to be sent.
    pub fn publish(&mut self, topic: u32, sequence: u32, expected: u32, planned: u64, now: u64) -> u64 {
        let number = self.next;
        self.next += 1;
        self.entries[(number & self.mask) as usize] =
            Entry { number, planned, sent: now, topic, sequence, expected, arrived: 0 };
        if number >= self.first_measured {
            self.published += 1;
            self.second_began.published += 1;
            self.expected += u64::from(expected);
        }
        if expected == 0 {
            self.advance();
        }
        number
    }

    /// A message waited for the publisher's socket and leaves only now.
    pub fn sent_late(&mut self, number: u64, now: u64) {
        let entry = &mut self.entries[(number & self.mask) as usize];
        if entry.number == number {
            entry.sent = now;
        }
    }

    /// Notes how late the generator itself was with a message.
    pub fn lag(&mut self, lag: u64) {
        self.lag.saturating_record(lag);
    }

    /// The message with this number; `None` when nobody published it.
    #[inline]
    #[must_use]
    pub fn look_up(&self, number: u64) -> Option<Delivery> {
        let measured = number >= self.first_measured;
        let entry = &self.entries[(number & self.mask) as usize];
        if entry.number == number {
            return Some(Delivery { topic: entry.topic, sequence: entry.sequence, measured });
        }
        let was_published = number != 0 && number < self.next;
        was_published.then_some(Delivery { topic: FORGOTTEN, sequence: 0, measured })
    }

    /// Enters a delivery of a number that was looked up.
    #[inline]
    pub fn deliver(&mut self, number: u64, format: usize, now: u64) {
        let measured = number >= self.first_measured;
        let entry = &mut self.entries[(number & self.mask) as usize];
        if entry.number != number {
            return self.deliver_forgotten(measured, format, now);
        }
        entry.arrived += 1;
        let felt = now.saturating_sub(entry.planned);
        let service = now.saturating_sub(entry.sent);
        let is_last = entry.arrived == entry.expected;
        if measured {
            self.delivered += 1;
            self.last_arrival = now;
            self.second[format].saturating_record(felt);
            if self.open_loop {
                self.service.saturating_record(service);
            }
            if is_last {
                self.last_felt.saturating_record(felt);
                self.last_service.saturating_record(service);
            }
        }
        if is_last {
            self.advance();
        }
    }

    #[cold]
    fn deliver_forgotten(&mut self, measured: bool, format: usize, now: u64) {
        if measured {
            let oldest = self.entries[(self.next & self.mask) as usize];
            self.delivered += 1;
            self.last_arrival = now;
            self.second[format].saturating_record(now.saturating_sub(oldest.planned));
        }
    }

    /// Moves the mark of what is complete.
    fn advance(&mut self) {
        // Messages that were forgotten are not waited for.
        self.complete = self.complete.max(self.next.saturating_sub(self.mask));
        while self.complete < self.next {
            let entry = &self.entries[(self.complete & self.mask) as usize];
            if entry.number == self.complete && entry.arrived < entry.expected {
                break;
            }
            self.complete += 1;
        }
    }

    /// Gives up on what has not arrived, as after a warm-up.
    pub fn give_up(&mut self) {
        self.complete = self.next;
    }

    /// Notes a hole in what a subscriber received.
    pub fn missing(&mut self, count: u64) {
        self.second_began.lost += count;
    }

    /// Ends the second that began at `at_s`, with what the server used in it.
    pub fn end_second(&mut self, at_s: u64, server: Option<(u64, u64)>) {
        let mut all = self.second[0].clone();
        for other in &self.second[1..] {
            let _ = all.add(other);
        }
        for (second, felt) in self.second.iter_mut().zip(&mut self.felt) {
            let _ = felt.add(&*second);
            second.reset();
        }
        let begun = std::mem::take(&mut self.second_began);
        self.seconds.push(Second {
            at_s,
            delivered: all.len(),
            p50_ns: all.value_at_quantile(0.50),
            p99_ns: all.value_at_quantile(0.99),
            server_cpu_ns: server.map(|(cpu, _)| cpu),
            server_rss_bytes: server.map(|(_, rss)| rss),
            ..begun
        });
    }

    /// The seconds that ended.
    #[must_use]
    pub fn seconds(&self) -> &[Second] {
        &self.seconds
    }

    /// Latency from the planned time, of one format or of all.
    #[must_use]
    pub fn felt(&self, format: Option<usize>) -> Option<Latency> {
        match format {
            Some(format) => latency(&self.felt[format]),
            None => {
                let mut all = self.felt[0].clone();
                for other in &self.felt[1..] {
                    let _ = all.add(other);
                }
                latency(&all)
            }
        }
    }

    /// Deliveries of one format.
    #[must_use]
    pub fn delivered_in(&self, format: usize) -> u64 {
        self.felt[format].len() + self.second[format].len()
    }

    /// Latency from the actual send.
    #[must_use]
    pub fn service(&self) -> Option<Latency> {
        if self.open_loop { latency(&self.service) } else { self.felt(None) }
    }

    /// Time to the last subscriber, from the planned time and from the actual send.
    #[must_use]
    pub fn last(&self) -> (Option<Latency>, Option<Latency>) {
        (latency(&self.last_felt), latency(&self.last_service))
    }

    /// How late the generator was: the 99th percentile, and the most.
    #[must_use]
    pub fn lag_p99_and_max(&self) -> (u64, u64) {
        (self.lag.value_at_quantile(0.99), self.lag.max())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_is_timed_from_plan_and_from_send() {
        let mut ledger = Ledger::new(16, 1, true);
        ledger.measure_from_here(0);
        let number = ledger.publish(0, 1, 2, 1_000, 5_000);
        assert_eq!(ledger.in_flight(), 1);
        assert_eq!(ledger.look_up(number), Some(Delivery { topic: 0, sequence: 1, measured: true }));
        ledger.deliver(number, 0, 11_000);
        ledger.deliver(number, 0, 21_000);
        assert_eq!(ledger.in_flight(), 0);
        ledger.end_second(0, None);
        let near = |is: u64, should: u64| is.abs_diff(should) * 1_000 <= should;
        assert!(near(ledger.felt(None).unwrap().min_ns, 10_000));
        assert!(near(ledger.service().unwrap().max_ns, 16_000));
        let (felt, service) = ledger.last();
        assert!(near(felt.unwrap().max_ns, 20_000) && near(service.unwrap().max_ns, 16_000));
        assert_eq!((ledger.published, ledger.expected, ledger.delivered), (1, 2, 2));
    }

    #[test]
    fn what_was_published_before_the_measurement_is_not_counted() {
        let mut ledger = Ledger::new(16, 1, true);
        let warm = ledger.publish(0, 1, 1, 0, 0);
        ledger.measure_from_here(0);
        assert!(!ledger.look_up(warm).unwrap().measured);
        ledger.deliver(warm, 0, 10);
        assert_eq!((ledger.expected, ledger.delivered), (0, 0));
        assert_eq!((ledger.look_up(99), ledger.look_up(0)), (None, None));
    }

    #[test]
    fn a_forgotten_message_counts_as_delivered_and_is_not_waited_for() {
        let mut ledger = Ledger::new(4, 1, true);
        ledger.measure_from_here(0);
        let first = ledger.publish(0, 1, 1, 100, 100);
        for at in 2..=6 {
            let number = ledger.publish(0, at, 1, u64::from(at) * 100, 0);
            ledger.deliver(number, 0, 10_000);
        }
        assert_eq!(ledger.in_flight(), 0);
        assert_eq!(ledger.look_up(first).unwrap().topic, FORGOTTEN);
        ledger.deliver(first, 0, 10_000);
        assert_eq!((ledger.expected, ledger.delivered), (6, 6));
    }

    #[test]
    fn each_second_has_its_own_percentiles_and_the_whole_has_all() {
        let mut ledger = Ledger::new(16, 2, false);
        ledger.measure_from_here(0);
        let first = ledger.publish(0, 1, 1, 0, 0);
        ledger.deliver(first, 0, 1_000);
        ledger.end_second(0, Some((7, 8)));
        let second = ledger.publish(0, 2, 1, 1_000, 1_000);
        ledger.deliver(second, 1, 6_000);
        ledger.missing(3);
        ledger.end_second(1, None);
        let seconds = ledger.seconds();
        assert_eq!((seconds[0].delivered, seconds[0].server_cpu_ns), (1, Some(7)));
        assert_eq!((seconds[1].delivered, seconds[1].lost), (1, 3));
        assert!(seconds[1].p50_ns > seconds[0].p50_ns);
        assert_eq!(ledger.felt(None).unwrap().count, 2);
        assert_eq!(ledger.felt(Some(1)).unwrap().count, 1);
    }

    #[test]
    fn percentiles_are_those_of_the_values() {
        let mut histogram = histogram();
        for value in 1..=1_000 {
            histogram.record(value * 1_000).unwrap();
        }
        let latency = latency(&histogram).unwrap();
        for (is, should) in [
            (latency.p50_ns, 500_000),
            (latency.p90_ns, 900_000),
            (latency.p99_ns, 990_000),
            (latency.p999_ns, 999_000),
        ] {
            assert!(u64::abs_diff(is, should) * 1_000 <= should, "{is} for {should}");
        }
        assert_eq!(latency.buckets.iter().map(|(_, count)| count).sum::<u64>(), 1_000);
    }
}
