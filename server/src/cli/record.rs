//! `tickcast record`: what a subscriber receives, as a file that `tickcast replay` plays.
//!
//! Written are the events as they came and the gaps that were told, so that whoever watches a replay knows what
//! is missing in it. What could not be written is cut off: a file is sound up to its last whole record.
#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use tickcast_client::{
    Client, ClientEvent, ClientOptions, ClientState, Data, Gap, GapReason, Origin, SubscribeOptions,
};
use tickcast_protocol::recording::{Entry, Head, Record as FileRecord, Recorded};
use tickcast_protocol::{BootId, Class, Epoch, Frame, Topic, TopicFilter};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use super::{Connect, EXIT_CONNECT, EXIT_FAILURE, block_on};
use crate::clock;
use crate::config::parse_duration;

/// How far away `--for` may be when it is not given: about thirty years.
const FOR_EVER: Duration = Duration::from_secs(1 << 30);
/// Events taken at once before they are written.
const BATCH: usize = 256;
/// How long the server may take to say goodbye.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// Record what is published to a file, for `tickcast replay`
#[derive(Args, Debug)]
pub(super) struct Record {
    /// Topics or patterns, such as market_data.* or **
    #[arg(required = true, value_name = "PATTERN")]
    patterns: Vec<String>,
    /// The file to write; one that is there already is left alone
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,
    /// Stop after this many messages
    #[arg(short = 'n', long, value_name = "COUNT")]
    count: Option<u64>,
    /// Stop after this time, such as 10s or 5m
    #[arg(long = "for", value_name = "TIME", value_parser = parse_duration)]
    duration: Option<Duration>,
    #[command(flatten)]
    connect: Connect,
}

impl Record {
    pub(super) fn run(self) -> u8 {
        block_on(self.record())
    }

    async fn record(self) -> u8 {
        for pattern in &self.patterns {
            if let Err(error) = TopicFilter::parse(pattern) {
                eprintln!("error: cannot subscribe to `{pattern}`: {error}");
                return EXIT_FAILURE;
            }
        }
        let (client, mut events) = match Client::connect(ClientOptions::new(&self.connect.url)).await {
            Ok(connected) => connected,
            Err(error) => {
                eprintln!("error: cannot connect to {}: {error}", self.connect.url);
                eprintln!("is the server running? start one with: tickcast serve --demo");
                return EXIT_CONNECT;
            }
        };
        let mut sink = match create(&self.out).and_then(|file| Sink::new(file, clock::unix_nanos())) {
            Ok(sink) => sink,
            Err(error) => {
                eprintln!("error: cannot write {}: {error}", self.out.display());
                return EXIT_FAILURE;
            }
        };
        let mut asked = HashSet::new();
        for pattern in &self.patterns {
            match client.watch(pattern, SubscribeOptions::default()) {
                Ok(key) => asked.insert(key),
                Err(error) => {
                    eprintln!("error: cannot subscribe to `{pattern}`: {error}");
                    return EXIT_FAILURE;
                }
            };
        }
        let (Ok(mut interrupt), Ok(mut terminate)) =
            (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        else {
            eprintln!("error: cannot wait for signals");
            return EXIT_FAILURE;
        };
        let end = sleep_until(Instant::now() + self.duration.unwrap_or(FOR_EVER));
        tokio::pin!(end);
        let mut recorder = Recorder::default();
        let mut lost = false;
        // Ctrl-C is how a recording without an end is ended.
        let mut code = loop {
            let mut next = tokio::select! {
                event = events.next() => event,
                () = end.as_mut() => break 0,
                _ = interrupt.recv() => break 0,
                _ = terminate.recv() => break 0,
            };
            let mut taken = 0;
            let mut bytes = Vec::new();
            let mut stop = None;
            loop {
                match next {
                    Some(ClientEvent::Data(data)) => recorder.data(&data, &mut bytes),
                    Some(ClientEvent::Gap(gap)) => {
                        if recorder.gap(&gap, &mut bytes) {
                            eprintln!("gap: {gap}");
                        }
                    }
                    Some(ClientEvent::Acknowledged { subscription, epoch, .. }) => {
                        let server = client.server().filter(|server| server.epoch == epoch);
                        recorder.run(server.map_or(BootId(0), |server| server.boot_id), epoch, &mut bytes);
                        if asked.remove(&subscription) && asked.is_empty() {
                            eprintln!("recording to {}", self.out.display());
                        }
                    }
                    Some(ClientEvent::State(change)) => {
                        lost |= change.close.is_some();
                        if lost {
                            let close = change.close.map_or(String::new(), |close| format!(" ({close})"));
                            eprintln!("{}{close}", change.to.name());
                        }
                        lost &= change.to != ClientState::Connected;
                        if change.to == ClientState::Disconnected && !change.will_retry {
                            stop = Some(EXIT_CONNECT);
                        }
                    }
                    Some(ClientEvent::ServerError(error)) => {
                        eprintln!("error: {error}");
                        if error.subscription.is_some() && !error.retryable {
                            stop = Some(EXIT_FAILURE);
                        }
                    }
                    Some(_) => {}
                    None => stop = Some(EXIT_FAILURE),
                }
                if self.count.is_some_and(|count| recorder.played >= count) {
                    stop = stop.or(Some(0));
                }
                taken += 1;
                next = match stop {
                    None if taken < BATCH => events.try_next(),
                    _ => break,
                };
                if next.is_none() {
                    break;
                }
            }
            if let Err(error) = sink.write(&bytes) {
                eprintln!("error: cannot write {}: {error}", self.out.display());
                eprintln!("the {} bytes that were written before are sound", sink.written);
                client.close(CLOSE_TIMEOUT).await;
                return EXIT_FAILURE;
            }
            if let Some(code) = stop {
                break code;
            }
        };
        let mut bytes = Vec::new();
        recorder.end(clock::unix_nanos(), &mut bytes);
        if let Err(error) = sink.write(&bytes).and_then(|()| finish(&sink.out)) {
            eprintln!("error: cannot write {}: {error}", self.out.display());
            code = EXIT_FAILURE;
        }
        let Recorder { events, gaps, gapped, conflated, .. } = recorder;
        eprintln!(
            "{events} messages of {} streams, {gaps} gaps ({gapped} lost, {conflated} conflated), {} bytes",
            recorder.streams.len(),
            sink.written
        );
        client.close(CLOSE_TIMEOUT).await;
        code
    }
}

/// A new file. What is there already stays as it is, unless it is no file, such as a pipe.
fn create(path: &Path) -> io::Result<File> {
    match fs::metadata(path) {
        Ok(there) if !there.is_file() && !there.is_dir() => File::options().write(true).open(path),
        _ => File::options().write(true).create_new(true).open(path),
    }
}

/// Brings the whole file to the disk; a pipe has none.
fn finish(file: &File) -> io::Result<()> {
    if file.metadata()?.is_file() { file.sync_all() } else { Ok(()) }
}

/// What a file must do besides taking bytes.
trait Cut {
    /// Makes it as short as `len` bytes.
    fn cut(&mut self, len: u64) -> io::Result<()>;
}

impl Cut for File {
    fn cut(&mut self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }
}

/// Where records go, whole or not at all.
struct Sink<W> {
    out: W,
    /// Bytes that are in it, whole records all.
    written: u64,
}

impl<W: Write + Cut> Sink<W> {
    fn new(out: W, started_at: u64) -> io::Result<Self> {
        let mut sink = Self { out, written: 0 };
        sink.write(&Head { started_at }.to_bytes())?;
        Ok(sink)
    }

    /// Writes whole records. After an error, what of them is there in full stays, and nothing more may be written.
    fn write(&mut self, records: &[u8]) -> io::Result<()> {
        let mut done = 0;
        let error = loop {
            if done == records.len() {
                self.written += done as u64;
                return Ok(());
            }
            match self.out.write(&records[done..]) {
                Ok(0) => break io::ErrorKind::WriteZero.into(),
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break error,
            }
        };
        let mut torn = &records[..done];
        while let Ok((_, rest)) = FileRecord::split_first(torn) {
            self.written += (torn.len() - rest.len()) as u64;
            torn = rest;
        }
        // A tail that cannot be cut off is found as torn by whoever reads.
        let _ = self.out.cut(self.written);
        Err(error)
    }
}

/// What is known of a stream that is recorded.
#[derive(Clone, Copy, Default)]
struct Track {
    number: u32,
    /// The newest sequence that is accounted for.
    last: u64,
    /// When a gap of unknown size was told, so that it is written once for all subscriptions.
    unknown_at: u64,
}

/// Makes records of what the client tells. Subscriptions may overlap: what is told for each is written once.
#[derive(Default)]
struct Recorder {
    run: Option<(BootId, Epoch)>,
    tracks: HashMap<(Topic, Class), Track>,
    /// Streams that were seen, over all epochs.
    streams: HashSet<Topic>,
    next_number: u32,
    events: u64,
    /// Of these, the ones that a replay will play.
    played: u64,
    gaps: u64,
    gapped: u64,
    conflated: u64,
}

impl Recorder {
    /// What follows comes from this server.
    fn run(&mut self, boot_id: BootId, epoch: Epoch, out: &mut Vec<u8>) {
        let before = self.run.replace((boot_id, epoch));
        if before == self.run {
            return;
        }
        if before.is_none_or(|(_, before)| before != epoch) {
            self.tracks.clear();
        }
        FileRecord { at: clock::unix_nanos(), entry: Entry::Run { boot_id, epoch } }.append(out);
    }

    fn track(&mut self, topic: &Topic, class: Class, at: u64, out: &mut Vec<u8>) -> &mut Track {
        let next = &mut self.next_number;
        let streams = &mut self.streams;
        self.tracks.entry((topic.clone(), class)).or_insert_with(|| {
            let number = *next;
            *next += 1;
            streams.insert(topic.clone());
            FileRecord { at, entry: Entry::Stream { number, class, topic: topic.clone() } }.append(out);
            Track { number, ..Track::default() }
        })
    }

    fn data(&mut self, data: &Data, out: &mut Vec<u8>) {
        let at = data.received_at;
        let track = self.track(&data.topic, data.class, at, out);
        let origin = match data.origin {
            Origin::Live => Recorded::Live,
            Origin::Snapshot => Recorded::Snapshot,
            Origin::Replay => Recorded::Replay,
        };
        if origin != Recorded::Snapshot {
            if data.sequence() <= track.last {
                return;
            }
            track.last = data.sequence();
        }
        let frame = Frame { header: data.header, payload: &data.payload };
        FileRecord { at, entry: Entry::Event { stream: track.number, origin, frame } }.append(out);
        self.events += 1;
        self.played += u64::from(origin != Recorded::Snapshot);
    }

    /// True when the gap was news.
    fn gap(&mut self, gap: &Gap, out: &mut Vec<u8>) -> bool {
        let (mut from, through, mut gapped, mut conflated) =
            (gap.from, gap.through, gap.gapped, gap.conflated);
        let is_known = from > 0 && through >= from;
        // What came after all is no gap, and of a change of epoch it is not known whether anything is missing
        // before something is known to be there.
        if gap.healed || (!is_known && gapped == 0 && conflated == 0 && !is_change(gap.reason)) {
            return false;
        }
        let track = self.track(&gap.topic, gap.class, gap.at, out);
        if is_known {
            if through <= track.last {
                return false;
            }
            if from <= track.last {
                from = track.last + 1;
                let left = through - track.last;
                conflated = conflated.min(left);
                gapped = gapped.min(left - conflated);
            }
            track.last = through;
        } else if std::mem::replace(&mut track.unknown_at, gap.at) == gap.at {
            return false;
        }
        let (stream, reason) = (track.number, gap.reason.name());
        let entry = Entry::Gap { stream, from, through, gapped, conflated, reason };
        FileRecord { at: gap.at, entry }.append(out);
        self.gaps += 1;
        self.gapped += gapped;
        self.conflated += conflated;
        true
    }

    fn end(&self, at: u64, out: &mut Vec<u8>) {
        FileRecord { at, entry: Entry::End { events: self.events, gaps: self.gaps } }.append(out);
    }
}

const fn is_change(reason: GapReason) -> bool {
    matches!(reason, GapReason::EpochChanged)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tickcast_client::SubscriptionKey;
    use tickcast_protocol::{Message, frame, registry};

    use super::*;
    use crate::feeds::recording::{Ending, Past, Recording};

    fn topic() -> Topic {
        Topic::parse("market_data.A").unwrap()
    }

    fn data(subscription: u32, origin: Origin, sequence: u64) -> Data {
        let (payload, header) =
            frame::payload(&Message::sample(registry::by_name("market_data").unwrap(), true));
        Data {
            subscription: SubscriptionKey(subscription),
            topic: topic(),
            class: Class::Latest,
            origin,
            header: frame::Header { stream: 9, sequence, publish_time: sequence * 1_000, ..header },
            payload: Bytes::from(payload),
            received_at: sequence * 1_000 + 1,
        }
    }

    fn gap(subscription: u32, from: u64, through: u64, counts: (u64, u64), reason: GapReason) -> Gap {
        Gap {
            subscription: SubscriptionKey(subscription),
            topic: topic(),
            class: Class::Latest,
            from,
            through,
            gapped: counts.0,
            conflated: counts.1,
            reason,
            healed: false,
            since: 0,
            at: 77 + through,
        }
    }

    /// Sequences of events, counts of gaps below zero.
    fn read(bytes: &[u8]) -> (Vec<i64>, Option<Ending>) {
        let mut recording = Recording::from_reader("made", bytes).unwrap();
        let past = recording.by_ref().map(|past| match past.unwrap() {
            Past::Event(event) => event.header.sequence as i64,
            Past::Gap(gap) => -(gap.count as i64),
        });
        (past.collect(), recording.ending())
    }

    /// A disk with so much room.
    struct Disk {
        bytes: Vec<u8>,
        room: usize,
        cuts: bool,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.room - self.bytes.len());
            self.bytes.extend_from_slice(&bytes[..count]);
            match count {
                0 if !bytes.is_empty() => Err(io::ErrorKind::StorageFull.into()),
                _ => Ok(count),
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Cut for Disk {
        fn cut(&mut self, len: u64) -> io::Result<()> {
            if self.cuts {
                self.bytes.truncate(len as usize);
                return Ok(());
            }
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    #[test]
    fn what_two_subscriptions_are_told_is_written_once() {
        let mut recorder = Recorder::default();
        let mut bytes = Head { started_at: 1 }.to_bytes().to_vec();
        recorder.run(BootId(1), Epoch(1), &mut bytes);
        recorder.run(BootId(1), Epoch(1), &mut bytes);
        for sequence in [1, 2] {
            for subscription in [1, 2] {
                recorder.data(&data(subscription, Origin::Live, sequence), &mut bytes);
            }
        }
        assert!(recorder.gap(&gap(1, 3, 6, (3, 1), GapReason::Lapped), &mut bytes));
        assert!(!recorder.gap(&gap(2, 3, 6, (3, 1), GapReason::Lapped), &mut bytes));
        // The part that was not told before.
        assert!(recorder.gap(&gap(2, 5, 8, (4, 0), GapReason::OutboxFull), &mut bytes));
        assert!(
            !recorder.gap(&Gap { healed: true, ..gap(1, 9, 9, (1, 0), GapReason::Reconnect) }, &mut bytes)
        );
        recorder.data(&data(1, Origin::Replay, 9), &mut bytes);
        recorder.data(&data(1, Origin::Snapshot, 4), &mut bytes);
        assert_eq!((recorder.events, recorder.played, recorder.gaps), (4, 3, 2));
        assert_eq!((recorder.gapped, recorder.conflated), (5, 1));
        recorder.end(5, &mut bytes);
        assert_eq!(read(&bytes), (vec![1, 2, -4, -2, 9, 4], Some(Ending::Whole)));
    }

    #[test]
    fn another_epoch_begins_anew_and_says_that_something_may_be_missing() {
        let mut recorder = Recorder::default();
        let mut bytes = Head { started_at: 1 }.to_bytes().to_vec();
        recorder.run(BootId(1), Epoch(1), &mut bytes);
        recorder.data(&data(1, Origin::Live, 100), &mut bytes);
        for subscription in [1, 2] {
            let told = recorder.gap(&gap(subscription, 0, 0, (0, 0), GapReason::EpochChanged), &mut bytes);
            assert_eq!(told, subscription == 1);
        }
        recorder.run(BootId(2), Epoch(2), &mut bytes);
        recorder.data(&data(1, Origin::Live, 1), &mut bytes);
        assert_eq!(recorder.streams.len(), 1);
        recorder.end(5, &mut bytes);
        assert_eq!(read(&bytes), (vec![100, 0, 1], Some(Ending::Whole)));
    }

    #[test]
    fn a_full_disk_leaves_whole_records_wherever_it_is_full() {
        // One write for every two events.
        let record = |sink: &mut Sink<Disk>| {
            let mut recorder = Recorder::default();
            for sequence in [1, 3] {
                let mut bytes = Vec::new();
                recorder.data(&data(1, Origin::Live, sequence), &mut bytes);
                recorder.data(&data(1, Origin::Live, sequence + 1), &mut bytes);
                sink.write(&bytes)?;
            }
            io::Result::Ok(())
        };
        let disk = |room, cuts| Sink::new(Disk { bytes: Vec::new(), room, cuts }, 1);
        let mut sink = disk(1 << 20, true).unwrap();
        record(&mut sink).unwrap();
        let whole = sink.out.bytes;
        let (all, _) = read(&whole);
        assert_eq!(all, [1, 2, 3, 4]);
        for room in 0..whole.len() {
            for cuts in [false, true] {
                let Ok(mut sink) = disk(room, cuts) else {
                    assert!(room < 24);
                    continue;
                };
                assert_eq!(record(&mut sink).unwrap_err().kind(), io::ErrorKind::StorageFull);
                assert!(sink.out.bytes.len() <= room);
                let (found, ending) = read(&sink.out.bytes);
                assert_eq!(found, all[..found.len()]);
                let Some(Ending::Torn { at, left_out }) = ending else { panic!("{ending:?}") };
                assert_eq!((at, left_out == 0 || !cuts), (sink.written, true), "{room}: {ending:?}");
            }
        }
    }
}
