//! Who critical messages are kept for: durable identities, what proves them, and what they want.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::fmt::Write as _;
use std::hash::RandomState;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tickcast_engine::Condition;
use tickcast_journal::RecipientId;
use tickcast_protocol::registry::Attributes;
use tickcast_protocol::{Predicate, Topic, TopicFilter};

use super::mailbox::Mailbox;

/// Longest name of an identity, in bytes.
pub const NAME_BYTES_MAX: usize = 64;
/// Most subscriptions an identity may have.
pub const WISHES_MAX: usize = 256;
/// Most bytes of their filters and predicates together: all of them are written whenever one changes.
pub const WISHES_BYTES_MAX: usize = 16 * 1024;

/// A subscription as it is kept: topics, and perhaps a condition.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Which topics.
    pub filter: TopicFilter,
    /// Which of their messages.
    pub predicate: Option<Predicate>,
    condition: Option<Condition>,
    /// On disk. Before that messages wait because of it, and nobody was told that they would.
    is_kept: bool,
}

/// One identity.
pub struct Identity {
    name: RecipientId,
    /// SHA-256 of what proves it.
    token: [u8; 32],
    /// On disk: before that nothing is kept for it.
    pub(super) is_kept: AtomicBool,
    wishes: RwLock<Vec<Wish>>,
    mailbox: Mutex<Mailbox>,
}

/// What the journal keeps with an identity's name.
#[derive(Serialize, Deserialize)]
struct Note {
    token: String,
    wishes: Vec<(String, String)>,
}

/// Why a name is none.
pub const NAME_RULE: &str = "1 to 64 characters of A-Z a-z 0-9 . _ : / @ -";

/// True for what an identity may be called.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/@-".contains(&byte);
    (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_part)
}

impl Wish {
    /// A subscription; `hasher` is the one that events' attributes are hashed with.
    #[must_use]
    pub fn new(filter: TopicFilter, predicate: Option<Predicate>, hasher: &RandomState) -> Self {
        let condition = predicate.clone().map(|predicate| Condition::new(predicate, hasher));
        Self { filter, predicate, condition, is_kept: false }
    }

    /// Bytes of its text.
    pub(super) fn bytes(&self) -> usize {
        let predicate = self.predicate.as_ref().map_or(0, |predicate| predicate.to_string().len());
        self.filter.as_str().len() + predicate
    }

    fn is(&self, filter: &TopicFilter, predicate: Option<&Predicate>) -> bool {
        self.filter == *filter && self.predicate.as_ref() == predicate
    }

    fn wants(&self, topic: &Topic, attributes: &Attributes) -> bool {
        let passes = |condition: &Condition| condition.passes(attributes);
        self.filter.matches(topic) && self.condition.as_ref().is_none_or(passes)
    }
}

impl Identity {
    /// A new one, which `token` proves from now on.
    pub(super) fn new(name: &str, token: &str) -> Self {
        Self {
            name: name.into(),
            token: digest(token),
            is_kept: AtomicBool::new(false),
            wishes: RwLock::default(),
            mailbox: Mutex::default(),
        }
    }

    /// One that was kept with this note, when the journal stood at `position`.
    pub(super) fn restore(
        name: RecipientId,
        note: &[u8],
        position: u64,
        hasher: &RandomState,
    ) -> Result<Self, String> {
        let note: Note = serde_json::from_slice(note).map_err(|error| error.to_string())?;
        let mut token = [0; 32];
        let wrong = || "its token is no SHA-256".to_owned();
        for (index, byte) in token.iter_mut().enumerate() {
            let digits = note.token.get(2 * index..2 * index + 2).ok_or_else(wrong)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
        }
        let wishes = note.wishes.iter().map(|(filter, predicate)| {
            let filter = TopicFilter::parse(filter).map_err(|error| error.to_string())?;
            let predicate = match predicate.as_str() {
                "" => None,
                text => Some(Predicate::parse(text).map_err(|error| error.to_string())?),
            };
            Ok(Wish { is_kept: true, ..Wish::new(filter, predicate, hasher) })
        });
        Ok(Self {
            name,
            token,
            is_kept: AtomicBool::new(true),
            wishes: RwLock::new(wishes.collect::<Result<_, String>>()?),
            mailbox: Mutex::new(Mailbox::restored(position)),
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &RecipientId {
        &self.name
    }

    /// What waits for it.
    pub fn mailbox(&self) -> MutexGuard<'_, Mailbox> {
        self.mailbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True when `token` proves it.
    pub(super) fn is_proved_by(&self, token: &str) -> bool {
        // Digests are compared, so how long it takes says nothing about the token.
        digest(token) == self.token
    }

    /// True when it has this subscription, on disk.
    #[must_use]
    pub fn wishes_for(&self, filter: &TopicFilter, predicate: Option<&Predicate>) -> bool {
        let wishes = self.wishes.read().unwrap_or_else(PoisonError::into_inner);
        wishes.iter().any(|wish| wish.is_kept && wish.is(filter, predicate))
    }

    /// How many subscriptions it has, and how many bytes of text they are.
    #[must_use]
    pub fn wish_sizes(&self) -> (usize, usize) {
        let wishes = self.wishes.read().unwrap_or_else(PoisonError::into_inner);
        (wishes.len(), wishes.iter().map(Wish::bytes).sum())
    }

    /// A subscription is on disk, or could not be brought there; one that was before stays.
    pub(super) fn settle(&self, filter: &TopicFilter, predicate: Option<&Predicate>, is_kept: bool) {
        let mut wishes = self.wishes.write().unwrap_or_else(PoisonError::into_inner);
        if is_kept {
            wishes.iter_mut().filter(|wish| wish.is(filter, predicate)).for_each(|wish| wish.is_kept = true);
        } else {
            wishes.retain(|wish| wish.is_kept || !wish.is(filter, predicate));
        }
    }

    pub(super) fn wants(&self, topic: &Topic, attributes: &Attributes) -> bool {
        let wishes = self.wishes.read().unwrap_or_else(PoisonError::into_inner);
        self.is_kept.load(Ordering::Acquire) && wishes.iter().any(|wish| wish.wants(topic, attributes))
    }

    /// Adds a subscription; the note to be kept from then on.
    pub(super) fn add(&self, wish: Wish) -> Vec<u8> {
        let mut wishes = self.wishes.write().unwrap_or_else(PoisonError::into_inner);
        if !wishes.iter().any(|known| known.is(&wish.filter, wish.predicate.as_ref())) {
            wishes.push(wish);
        }
        self.note(&wishes)
    }

    /// Takes a subscription away; the note to be kept from then on.
    pub(super) fn remove(&self, filter: &TopicFilter, predicate: Option<&Predicate>) -> Vec<u8> {
        let mut wishes = self.wishes.write().unwrap_or_else(PoisonError::into_inner);
        wishes.retain(|wish| !wish.is(filter, predicate));
        self.note(&wishes)
    }

    pub(super) fn note_now(&self) -> Vec<u8> {
        self.note(&self.wishes.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn note(&self, wishes: &[Wish]) -> Vec<u8> {
        let text = |wish: &Wish| {
            let predicate = wish.predicate.as_ref().map_or(String::new(), ToString::to_string);
            (wish.filter.as_str().to_owned(), predicate)
        };
        let note = Note { token: hex(&self.token), wishes: wishes.iter().map(text).collect() };
        serde_json::to_vec(&note).expect("texts and lists can be written")
    }
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// Digits of bytes, two each.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// All identities, by name.
#[derive(Default)]
pub struct Identities(RwLock<HashMap<RecipientId, Arc<Identity>>>);

impl Identities {
    /// The one of this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Arc<Identity>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Adds one, unless there are `max` or one of its name; then says which.
    pub(super) fn add(&self, identity: Arc<Identity>, max: usize) -> Result<(), Option<Arc<Identity>>> {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.get(&identity.name) {
            return Err(Some(Arc::clone(known)));
        }
        if all.len() >= max {
            return Err(None);
        }
        all.insert(identity.name.clone(), identity);
        Ok(())
    }

    /// Takes one out, unless another has its name by now.
    pub(super) fn remove(&self, identity: &Arc<Identity>) {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if all.get(&identity.name).is_some_and(|known| Arc::ptr_eq(known, identity)) {
            all.remove(&identity.name);
        }
    }

    /// True while this one, and no other, has its name.
    pub(super) fn has(&self, identity: &Arc<Identity>) -> bool {
        self.find(&identity.name).is_some_and(|known| Arc::ptr_eq(&known, identity))
    }

    /// Everyone who wants a message, by what it is about.
    pub(super) fn audience(&self, topic: &Topic, attributes: &Attributes) -> Vec<RecipientId> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let wanting = all.values().filter(|identity| identity.wants(topic, attributes));
        wanting.map(|identity| identity.name.clone()).collect()
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the token.
        f.debug_struct("Identity").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded_and_plain() {
        for name in ["a", "desk-7", "user:42/screen@home", &"x".repeat(64)] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", "two words", "é", "a\n", &"x".repeat(65)] {
            assert!(!is_name(name), "{name:?}");
        }
    }

    #[test]
    fn an_identity_comes_back_from_its_note_with_its_proof_and_its_subscriptions() {
        let hasher = RandomState::new();
        let identity = Identity::new("desk-7", "secret");
        let filter = |text| TopicFilter::parse(text).expect("a filter");
        let predicate = Predicate::parse("severity>=high").ok();
        identity.add(Wish::new(filter("risk_alert.**"), predicate.clone(), &hasher));
        identity.add(Wish::new(filter("risk_alert.**"), predicate.clone(), &hasher));
        let note = identity.add(Wish::new(filter("**"), None, &hasher));
        assert!(!String::from_utf8_lossy(&note).contains("secret"), "the token itself is not kept");

        let back = Identity::restore("desk-7".into(), &note, 9, &hasher).expect("a sound note");
        assert!(back.is_proved_by("secret") && !back.is_proved_by("Secret") && !back.is_proved_by(""));
        assert_eq!(back.wish_sizes().0, 2, "the same one twice is one");
        assert!(back.wishes_for(&filter("risk_alert.**"), predicate.as_ref()));
        assert!(back.wishes_for(&filter("**"), None));
        back.remove(&filter("**"), None);
        assert!(!back.wishes_for(&filter("**"), None));
        assert!(Identity::restore("x".into(), b"{}", 0, &hasher).is_err());
    }
}
