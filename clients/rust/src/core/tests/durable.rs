//! Acknowledgements over connections that break.

use tickcast_protocol::message::{Ack, Deliver, Identified, Span};

use super::*;

const WINDOW: u32 = 4;

fn script() -> Script {
    let identity = Some(Identity { name: "desk-7".into(), token: "secret".into() });
    let mut core = Core::new(CoreOptions { identity, ..options() });
    core.connect(0);
    let mut script = Script { core, now: 0 };
    script.identified(1);
    script
}

fn spans(acks: &[Message]) -> Vec<(u64, u64)> {
    let spans = acks.iter().flat_map(|ack| match ack {
        Message::Ack(Ack { through: 0, spans }) => spans.clone(),
        other => panic!("an acknowledgement: {other:?}"),
    });
    spans.map(|Span { from, through }| (from, through)).collect()
}

impl Script {
    /// Dials, is welcomed by this run of the server, and says who it is.
    fn identified(&mut self, boot_id: u64) {
        self.until_dial();
        self.accept(boot_id, boot_id);
        let heard = self.heard();
        let [Message::Identify(identify)] = &heard[..] else { panic!("{heard:?}") };
        self.say(&[Identified {
            request: identify.request,
            identity: "desk-7".into(),
            token: "secret".into(),
            durability: Durability::DISK,
            window: WINDOW,
            ack_timeout_ms: 10_000,
        }
        .into()]);
    }

    fn deliver(&mut self, position: u64, attempt: u32, accepted_at: i64) {
        let word = Deliver {
            position,
            attempt,
            topic: TOPIC.into(),
            sequence: position,
            publisher: "a".into(),
            id: String::new(),
            accepted_at: Timestamp(accepted_at),
            expires_at: Timestamp(0),
        };
        let mut bytes = frame::encode(&word.into());
        bytes.extend(data_frame(0, position));
        self.core.received(bytes, self.now);
    }

    fn told(&mut self) -> Vec<u64> {
        let critical = self.events().into_iter().filter_map(|event| match event {
            ClientEvent::Critical(critical) => Some(critical.position),
            _ => None,
        });
        critical.collect()
    }
}

#[test]
fn what_was_said_last_is_said_again_to_the_same_run_of_the_server() {
    let mut script = script();
    (1..=6).for_each(|position| script.deliver(position, 1, 7));
    assert_eq!(script.told(), [1, 2, 3, 4, 5, 6]);
    script.core.acknowledge(1..=5);
    assert_eq!(script.core.acknowledgements_due(), 5);
    assert_eq!(spans(&script.heard()), [(1, 5)]);
    assert_eq!(script.core.acknowledgements_due(), 0);
    script.close(1006);
    script.core.acknowledge([6]);
    assert_eq!(script.core.acknowledgements_due(), 1, "for the next connection");
    script.identified(1);
    // The server had sent no more than a window ahead.
    assert_eq!(spans(&script.heard()), [(2, 6)]);
    assert_eq!(script.core.acknowledgements_due(), 0);
}

#[test]
fn another_run_of_the_server_hears_only_of_what_it_sends() {
    let mut script = script();
    script.deliver(1, 1, 7);
    script.deliver(2, 1, 7);
    script.told();
    script.core.acknowledge([1]);
    assert_eq!(spans(&script.heard()), [(1, 1)]);
    script.close(1006);
    script.core.acknowledge([2]);
    script.identified(2);
    assert_eq!(spans(&script.heard()), [], "its positions may be others");
    // The one is what it was, the other is not.
    script.deliver(1, 2, 7);
    script.deliver(2, 1, 8);
    assert_eq!(script.told(), [2]);
    assert_eq!(spans(&script.heard()), [(1, 1)]);
    // What was said to the earlier run is not said to this one on later connections either.
    script.close(1006);
    script.identified(2);
    assert_eq!(spans(&script.heard()), [(1, 1)]);
}
