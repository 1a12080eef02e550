//! What the server sends, frame by frame.

use bytes::Bytes;
use tickcast_protocol::codec::LZ4_BIT;
use tickcast_protocol::frame::{Frames, PAYLOAD_BYTES_MAX};
use tickcast_protocol::message::{Bracket, Error, Heartbeat, Notice, NoticeKind, Ping, Pong, Welcome};
use tickcast_protocol::registry::DATA_FIRST;
use tickcast_protocol::{BootId, CloseCode, DecodeError, Epoch, Frame, Message};

use super::account::{Arrival, Replayed, Told};
use super::event::{
    ClientEvent, ClientState, Close, Data, Gap, GapReason, Origin, ServerError, ServerInfo, Violation,
};
use super::streams::Known;
use super::{Core, HEARTBEAT_MS, Open, Request, State};

impl Core {
    /// A WebSocket message arrived. Payloads of the events it leads to share its bytes, or, if they came
    /// compressed, a buffer of the core's.
    pub fn received(&mut self, message: impl Into<Bytes>, now: u64) {
        let message: Bytes = message.into();
        match &mut self.state {
            State::Greeting { .. } => {}
            State::Open(open) => {
                if std::mem::take(&mut open.silent) {
                    self.end_silence(now);
                }
                if let State::Open(open) = &mut self.state {
                    open.heard_at = now;
                }
            }
            State::Idle | State::Waiting { .. } | State::Dialling => return,
        }
        self.stats.messages += 1;
        self.stats.bytes += message.len() as u64;
        for frame in Frames::new(&message, PAYLOAD_BYTES_MAX) {
            let outcome = match frame {
                Ok(frame) if frame.header.type_id >= DATA_FIRST => self.on_data(&frame, &message, now),
                Ok(frame) => self.on_control(&frame, now),
                Err(error) => Err(error),
            };
            if let Err(error) = outcome {
                self.stats.malformed += 1;
                self.events.push_back(ClientEvent::Violation(Violation::Malformed(error)));
                self.hang_up(Close::new(CloseCode::ProtocolError.number(), "malformed frame"), now);
            }
            if !matches!(self.state, State::Greeting { .. } | State::Open(_)) {
                return;
            }
        }
    }

    fn on_control(&mut self, frame: &Frame<'_>, now: u64) -> Result<(), DecodeError> {
        if tickcast_protocol::registry::by_id(frame.header.type_id).is_none() {
            // Of a newer server: what it says there we cannot miss.
            self.stats.ignored += 1;
            return Ok(());
        }
        let message = frame.view()?.to_owned();
        match (&self.state, message) {
            (State::Greeting { .. }, Message::Welcome(welcome)) => self.on_welcome(welcome, now),
            (State::Greeting { .. } | State::Open(_), Message::Error(error)) => self.on_error(error, now),
            (State::Open(_), message) => self.on_message(message, now),
            _ => self.stats.ignored += 1,
        }
        Ok(())
    }

    fn on_message(&mut self, message: Message, now: u64) {
        match message {
            Message::Acknowledge(message) => self.on_acknowledge(&message, now),
            Message::Bind(message) => self.on_bind(&message, now),
            Message::Notice(notice) => self.on_notice(&notice, now),
            Message::Heartbeat(heartbeat) => self.on_heartbeat(&heartbeat, now),
            Message::Published(reply) => self.on_published(reply),
            Message::Identified(identified) => self.on_identified(identified),
            Message::Deliver(word) => self.durable.word = Some(word),
            Message::StreamStates(told) => self.on_states(told),
            Message::History(history) => self.on_history(history),
            Message::Begin(begin) => match origin(begin.bracket) {
                Some(origin) => self.on_begin(begin.subscription, origin, begin.events),
                None => self.stats.ignored += 1,
            },
            Message::End(end) => match origin(end.bracket) {
                Some(origin) => self.on_end(end.subscription, origin, now),
                None => self.stats.ignored += 1,
            },
            Message::Pong(pong) => self.on_pong(&pong, now),
            Message::Ping(Ping { client_time, sequence }) => {
                let server_time = tickcast_protocol::field::Timestamp(i64::try_from(now).unwrap_or(i64::MAX));
                self.send(&Pong { client_time, server_time, sequence }.into());
            }
            _ => self.stats.ignored += 1,
        }
    }

    fn on_welcome(&mut self, welcome: Welcome, now: u64) {
        let (boot_id, epoch) = (BootId(welcome.boot_id), Epoch(welcome.epoch));
        if self.server.as_ref().is_some_and(|server| server.boot_id != boot_id) {
            self.streams.forget_ids();
        }
        if self.server.as_ref().is_some_and(|server| server.epoch != epoch) {
            self.change_epoch(epoch, now);
        }
        let heartbeat = (welcome.heartbeat_ms > 0).then(|| {
            let clamped = welcome.heartbeat_ms.clamp(*HEARTBEAT_MS.start(), *HEARTBEAT_MS.end());
            u64::from(clamped) * 1_000_000
        });
        self.server = Some(ServerInfo {
            boot_id,
            epoch,
            connection: welcome.connection,
            server: welcome.server,
            heartbeat_ms: welcome.heartbeat_ms,
            frame_bytes_max: welcome.frame_bytes_max,
            subscriptions_max: welcome.subscriptions_max,
            lz4: welcome.codecs & LZ4_BIT != 0,
        });
        self.stats.connections += 1;
        self.state = State::Open(Open {
            since: now,
            heard_at: now,
            heartbeat,
            silent: false,
            come_back_at: None,
            told_unbound: false,
            bracket: None,
        });
        self.tell_state(ClientState::Connected, None, true, None);
        if !self.identify() {
            self.ask_for_all();
        }
    }

    fn on_data(&mut self, frame: &Frame<'_>, message: &Bytes, now: u64) -> Result<(), DecodeError> {
        let State::Open(open) = &mut self.state else {
            self.stats.ignored += 1;
            return Ok(());
        };
        self.stats.data_frames += 1;
        if let Some(word) = self.durable.word.take() {
            return self.on_critical(word, frame, message, now);
        }
        let header = frame.header;
        let index = match self.streams.known(header.stream) {
            Known::Stream(index) => index,
            Known::Skipped => {
                self.stats.skipped += 1;
                return Ok(());
            }
            Known::Unbound => {
                self.stats.unbound += 1;
                if !std::mem::replace(&mut open.told_unbound, true) {
                    let violation = Violation::Unbound(header.stream);
                    self.events.push_back(ClientEvent::Violation(violation));
                }
                return Ok(());
            }
        };
        let (header, payload) = if frame.is_compressed() {
            let (header, payload) = frame.decompress(&mut self.decompressed)?;
            self.stats.compressed += 1;
            let saved = payload.len().saturating_sub(frame.payload.len());
            self.stats.compressed_saved_bytes += saved as u64;
            (header, payload)
        } else {
            (header, message.slice_ref(frame.payload))
        };
        let stream = &mut self.streams.list[index];
        // A bracket is of one subscription; a stream that this one does not follow cannot be part of it.
        let bracket = open.bracket.filter(|(of, _)| stream.tracks.iter().any(|track| track.server_id == *of));
        let origin = bracket.map_or(Origin::Live, |(_, origin)| origin);
        let connection = self.stats.connections;
        let mut freshened = Vec::new();
        let mut taken = false;
        for track in &mut stream.tracks {
            let subscription = track.subscription;
            if let Some((of, Origin::Snapshot)) = bracket {
                // A snapshot is of one subscription, and no part of any account.
                if track.server_id != of {
                    continue;
                }
            } else {
                // A subscription that is still being asked for follows its stream when nothing lies between.
                if track.bound_on != connection && header.sequence != track.next() {
                    continue;
                }
                let (expected, since) = (track.next(), track.fresh.heard_at);
                match track.arrive(header.sequence) {
                    Arrival::Repeat => {
                        taken |= header.sequence < track.first();
                        continue;
                    }
                    Arrival::New { unexplained } if unexplained > 0 => {
                        self.stats.unexplained = self.stats.unexplained.saturating_add(unexplained);
                        self.events.push_back(ClientEvent::Gap(Gap {
                            subscription,
                            topic: stream.topic.clone(),
                            class: stream.class,
                            from: expected,
                            through: header.sequence - 1,
                            gapped: unexplained,
                            conflated: 0,
                            reason: GapReason::Unexplained,
                            healed: false,
                            since,
                            at: now,
                        }));
                    }
                    Arrival::New { .. } => {}
                }
                if origin == Origin::Replay {
                    let begun = Replayed { from: header.sequence, through: header.sequence, since };
                    track.replayed.get_or_insert(begun).through = header.sequence;
                }
                if std::mem::take(&mut track.fresh.stale) {
                    freshened.push((subscription, track.fresh.age(now)));
                }
                track.fresh.touch(now);
            }
            taken = true;
            self.events.push_back(ClientEvent::Data(Data {
                subscription,
                topic: stream.topic.clone(),
                class: stream.class,
                origin,
                header,
                payload: payload.clone(),
                received_at: now,
            }));
        }
        if !taken && !stream.tracks.is_empty() {
            self.stats.repeats += 1;
        }
        let topic = (!freshened.is_empty()).then(|| stream.topic.clone());
        if origin == Origin::Live {
            self.settle_state(index);
        }
        for (key, age) in freshened {
            topic.clone().into_iter().for_each(|topic| self.stream_freshened(key, topic, age));
        }
        // A rhythm that just became known may bring its bound forward.
        self.look_at = self.look_at.min(now.saturating_add(super::fresh::BOUND_MIN_NS));
        Ok(())
    }

    fn on_notice(&mut self, notice: &Notice, now: u64) {
        match notice.kind {
            NoticeKind::DRAINING => {
                let State::Open(open) = &mut self.state else { return };
                let pause = u64::from(notice.reconnect_in_ms).saturating_mul(1_000_000);
                open.come_back_at = Some(now.saturating_add(pause));
                let reconnect_in_ms = notice.reconnect_in_ms;
                self.events.push_back(ClientEvent::Draining { reconnect_in_ms });
                self.tell_state(ClientState::Draining, None, true, None);
            }
            NoticeKind::CLOSING => {
                let reason = GapReason::of(notice.reason);
                self.events.push_back(ClientEvent::Closing { reason });
            }
            NoticeKind::LOSS | NoticeKind::COUNTS | NoticeKind::UPSTREAM_GAP => self.on_loss(notice, now),
            _ => self.stats.ignored += 1,
        }
    }

    fn on_loss(&mut self, notice: &Notice, now: u64) {
        if notice.kind == NoticeKind::COUNTS && notice.stream == 0 {
            return self.compare(notice);
        }
        let Known::Stream(index) = self.streams.known(notice.stream) else {
            self.stats.ignored += 1;
            return;
        };
        let upstream = notice.kind == NoticeKind::UPSTREAM_GAP;
        if upstream {
            self.stats.upstream_gaps = self.stats.upstream_gaps.saturating_add(notice.gapped);
        }
        let stream = &mut self.streams.list[index];
        let connection = self.stats.connections;
        let mut stale = false;
        for track in &mut stream.tracks {
            // A stream flows once a connection, so what is missing of it is missing for all who follow it:
            // what one filter leaves out, another one may let pass. Who is still being asked for only follows
            // when nothing lies between, and what was filtered was not by its own filter.
            let later = notice.from > track.next() || notice.filtered > 0;
            if track.bound_on != connection && later {
                continue;
            }
            let said = Told { conflated: notice.conflated, gapped: notice.gapped, filtered: notice.filtered };
            // What a publisher's source skipped had no sequence here when `from` is zero: told, not counted.
            let told = if upstream && notice.from == 0 {
                Some((0, said))
            } else {
                track.told(notice.from, notice.through, said)
            };
            if !track.is_behind() {
                track.fresh.caught_up();
            }
            let Some((from, told)) = told else { continue };
            if told.gapped > 0 || told.conflated > 0 {
                let reason = if upstream { GapReason::Upstream } else { GapReason::of(notice.reason) };
                self.events.push_back(ClientEvent::Gap(Gap {
                    subscription: track.subscription,
                    topic: stream.topic.clone(),
                    class: stream.class,
                    from,
                    through: notice.through,
                    gapped: told.gapped,
                    conflated: told.conflated,
                    reason,
                    healed: false,
                    since: track.fresh.heard_at,
                    at: now,
                }));
            }
            stale |= track.fresh.stale;
        }
        if stale {
            // The rule decides whether that ended a silence.
            self.look_at_streams(now);
        }
    }

    /// The server's sums of what a subscription did not get, told when nothing waits: ours must be the same.
    fn compare(&mut self, notice: &Notice) {
        let connection = self.stats.connections;
        for key in self.by_server_id.get(&notice.subscription).cloned().unwrap_or_default() {
            let Some(subscription) = self.subscriptions.get(&key) else { continue };
            let shared = self.by_server_id.get(&notice.subscription).is_some_and(|keys| keys.len() > 1);
            if !subscription.comparable || shared || !self.streams.is_alone(key, connection) {
                continue;
            }
            self.stats.compared += 1;
            let (ours, before) = (self.streams.told(key), subscription.uncounted);
            let ours = Told {
                conflated: ours.conflated - before.conflated.min(ours.conflated),
                gapped: ours.gapped - before.gapped.min(ours.gapped),
                filtered: ours.filtered - before.filtered.min(ours.filtered),
            };
            let theirs =
                Told { conflated: notice.conflated, gapped: notice.gapped, filtered: notice.filtered };
            if ours != theirs {
                self.stats.miscounted += 1;
                let told = [theirs.conflated, theirs.gapped, theirs.filtered];
                let counted = [ours.conflated, ours.gapped, ours.filtered];
                let violation = Violation::Sums { subscription: key, told, counted };
                self.events.push_back(ClientEvent::Violation(violation));
            }
        }
    }

    fn on_heartbeat(&mut self, heartbeat: &Heartbeat, now: u64) {
        let mut look = false;
        let connection = self.stats.connections;
        for head in &heartbeat.heads {
            let Known::Stream(index) = self.streams.known(head.stream) else { continue };
            self.settle_state(index);
            for track in &mut self.streams.list[index].tracks {
                track.see_head(head.sequence);
                if track.bound_on == connection && head.through > 0 {
                    track.settle(head.through);
                }
                let behind = track.is_behind();
                track.fresh.see_head(behind, now);
                look |= behind || track.fresh.stale;
            }
        }
        if look {
            self.look_at = self.look_at.min(now);
            self.look_at_streams(now);
        }
    }

    fn on_pong(&mut self, pong: &Pong, now: u64) {
        let Some((_, sent_at)) = self.ping.take_if(|(sequence, _)| *sequence == pong.sequence) else {
            self.stats.ignored += 1;
            return;
        };
        let rtt_ns = now.saturating_sub(sent_at);
        let middle = i64::try_from(sent_at.saturating_add(rtt_ns / 2)).unwrap_or(i64::MAX);
        let offset_ns = pong.server_time.0.saturating_sub(middle);
        self.events.push_back(ClientEvent::Pong { rtt_ns, offset_ns });
    }

    fn on_error(&mut self, error: Error, now: u64) {
        self.stats.refused += 1;
        let request = self.requests.get(&error.request).copied();
        let subscription = match request {
            Some(Request::Subscribe { key, .. } | Request::Snapshot(key) | Request::Configure(key)) => {
                Some(key)
            }
            Some(Request::Unsubscribe | Request::Publish | Request::Identify) | None => None,
        };
        let (code, request_id) = (error.code, error.request);
        let said = ServerError {
            subscription,
            code: error.code,
            message: error.message,
            field: error.field,
            retryable: error.retryable,
            retry_after_ms: error.retry_after_ms,
        };
        if request != Some(Request::Publish) {
            self.requests.remove(&request_id);
        }
        match request {
            Some(Request::Publish) => self.answer(request_id, super::Outcome::Refused(said)),
            Some(Request::Identify) => self.on_identify_refused(code, said, now),
            Some(Request::Subscribe { key, resumed }) => self.on_subscribe_refused(key, resumed, said, now),
            // Unsubscribing what is not there is what was wanted.
            Some(Request::Unsubscribe) => {}
            Some(Request::Snapshot(key)) => {
                if let Some(subscription) = self.subscriptions.get_mut(&key) {
                    subscription.asks_again = false;
                }
                self.events.push_back(ClientEvent::ServerError(said));
            }
            Some(Request::Configure(_)) | None => {
                if said.retry_after_ms > 0 {
                    self.not_before = now.saturating_add(u64::from(said.retry_after_ms) * 1_000_000);
                }
                self.events.push_back(ClientEvent::ServerError(said));
            }
        }
    }
}

fn origin(bracket: Bracket) -> Option<Origin> {
    match bracket {
        Bracket::SNAPSHOT => Some(Origin::Snapshot),
        Bracket::REPLAY => Some(Origin::Replay),
        _ => None,
    }
}
