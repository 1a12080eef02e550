//! Who critical messages are kept for: durable identities, what proves them, and what they want.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::fmt::Write as _;
use std::hash::RandomState;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

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

    fn filters(&self) -> Vec<TopicFilter> {
        let wishes = self.wishes.read().unwrap_or_else(PoisonError::into_inner);
        wishes.iter().map(|wish| wish.filter.clone()).collect()
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

/// All identities: by name, and by what they want.
#[derive(Default)]
pub struct Identities {
    by_name: RwLock<HashMap<RecipientId, Arc<Identity>>>,
    /// Under each [`shelf`], those with a subscription there. Who stands on one may not want a message after
    /// all; who stands on none of a message's does not.
    shelves: RwLock<HashMap<String, Shelf>>,
}

type Shelf = HashMap<RecipientId, Arc<Identity>>;

/// Where a subscription is looked for: under its topic, if it names one; else under its type, or under `**`.
fn shelf(filter: &TopicFilter) -> &str {
    if filter.as_topic().is_some() { filter.as_str() } else { filter.type_name().unwrap_or("**") }
}

impl Identities {
    /// The one of this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Arc<Identity>> {
        self.by_name().get(name).cloned()
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.by_name().len()
    }

    /// Adds one, unless there are `max` or one of its name; then says which.
    pub(super) fn add(&self, identity: Arc<Identity>, max: usize) -> Result<(), Option<Arc<Identity>>> {
        let mut all = self.by_name.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.get(&identity.name) {
            return Err(Some(Arc::clone(known)));
        }
        if all.len() >= max {
            return Err(None);
        }
        all.insert(identity.name.clone(), Arc::clone(&identity));
        drop(all);
        for filter in identity.filters() {
            self.file(&identity, &filter);
        }
        Ok(())
    }

    /// Takes one out, unless another has its name by now.
    pub(super) fn remove(&self, identity: &Arc<Identity>) {
        let mut all = self.by_name.write().unwrap_or_else(PoisonError::into_inner);
        if !all.get(&identity.name).is_some_and(|known| Arc::ptr_eq(known, identity)) {
            return;
        }
        all.remove(&identity.name);
        drop(all);
        for filter in identity.filters() {
            self.take_from(shelf(&filter), identity);
        }
    }

    /// True while this one, and no other, has its name.
    pub(super) fn has(&self, identity: &Arc<Identity>) -> bool {
        self.find(&identity.name).is_some_and(|known| Arc::ptr_eq(&known, identity))
    }

    /// An identity has a subscription from now on. To be called behind [`Identity::add`].
    pub(super) fn file(&self, identity: &Arc<Identity>, filter: &TopicFilter) {
        let mut shelves = self.shelves.write().unwrap_or_else(PoisonError::into_inner);
        let shelf = shelves.entry(shelf(filter).to_owned()).or_default();
        shelf.insert(identity.name.clone(), Arc::clone(identity));
    }

    /// An identity may have lost a subscription. To be called behind what took it away.
    pub(super) fn unfile(&self, identity: &Arc<Identity>, filter: &TopicFilter) {
        if !identity.filters().iter().any(|other| shelf(other) == shelf(filter)) {
            self.take_from(shelf(filter), identity);
        }
    }

    fn take_from(&self, name: &str, identity: &Arc<Identity>) {
        let mut shelves = self.shelves.write().unwrap_or_else(PoisonError::into_inner);
        let Some(shelf) = shelves.get_mut(name) else { return };
        if shelf.get(&identity.name).is_some_and(|known| Arc::ptr_eq(known, identity)) {
            shelf.remove(&identity.name);
        }
        if shelf.is_empty() {
            shelves.remove(name);
        }
    }

    /// Everyone who wants a message, by what it is about.
    pub(super) fn audience(&self, topic: &Topic, attributes: &Attributes) -> Vec<RecipientId> {
        let shelves = self.shelves.read().unwrap_or_else(PoisonError::into_inner);
        let mut audience = Vec::new();
        for name in [topic.as_str(), topic.type_name(), "**"] {
            let wanting = shelves.get(name).into_iter().flat_map(HashMap::values);
            audience.extend(
                wanting
                    .filter(|identity| identity.wants(topic, attributes))
                    .map(|identity| identity.name.clone()),
            );
        }
        // Several subscriptions of one identity may match.
        audience.sort_unstable();
        audience.dedup();
        audience
    }

    fn by_name(&self) -> RwLockReadGuard<'_, HashMap<RecipientId, Arc<Identity>>> {
        self.by_name.read().unwrap_or_else(PoisonError::into_inner)
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
    fn an_audience_is_everyone_who_wants_a_message_whatever_came_and_went_before() {
        let hasher = RandomState::new();
        let filters = ["risk_alert.A", "risk_alert.B", "risk_alert.*", "alert.**", "**"];
        let filters: Vec<_> =
            filters.iter().map(|text| TopicFilter::parse(text).expect("a filter")).collect();
        let topics = ["risk_alert.A", "risk_alert.B", "risk_alert.A.x", "alert.A", "trade_executed.42"];
        let topics: Vec<_> = topics.iter().map(|text| Topic::parse(text).expect("a topic")).collect();
        let identities = Identities::default();
        let mut random = fastrand::Rng::with_seed(7);
        let mut audiences = 0;
        for _ in 0..2_000 {
            let name = format!("desk-{}", random.u8(..6));
            let filter = &filters[random.usize(..filters.len())];
            match (identities.find(&name), random.u8(..8)) {
                (None, _) => {
                    let identity = Identity::new(&name, "");
                    identity.is_kept.store(true, Ordering::Release);
                    assert!(identities.add(Arc::new(identity), 6).is_ok());
                }
                (Some(identity), 0) => identities.remove(&identity),
                (Some(identity), 1..=3) => {
                    identity.remove(filter, None);
                    identities.unfile(&identity, filter);
                }
                (Some(identity), _) => {
                    identity.add(Wish::new(filter.clone(), None, &hasher));
                    identities.file(&identity, filter);
                }
            }
            for topic in &topics {
                let all = identities.by_name();
                let mut wanted: Vec<_> =
                    all.values().filter(|one| one.wants(topic, &Attributes::default())).collect();
                wanted.sort_unstable_by_key(|one| one.name.clone());
                let found = identities.audience(topic, &Attributes::default());
                assert!(found.iter().eq(wanted.iter().map(|one| &one.name)), "{topic}: {found:?}");
                audiences += found.len();
            }
        }
        assert!(audiences > 10_000, "there were some: {audiences}");
        let all: Vec<_> = identities.by_name().values().cloned().collect();
        for identity in &all {
            identities.remove(identity);
        }
        assert!(identities.shelves.read().unwrap().is_empty(), "nobody is left behind");
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
