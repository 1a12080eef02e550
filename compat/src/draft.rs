//! A data message between JSON and the protocol: members under the protocol's names, what is missing
//! filled in, then built together with its topic.
#![forbid(unsafe_code)]

use std::borrow::Cow;

use tickcast_protocol::error::{FieldError, FieldReason};
use tickcast_protocol::field::{Input, Kind, Timestamp};
use tickcast_protocol::registry::TypeInfo;
use tickcast_protocol::topic::is_key;
use tickcast_protocol::{Message, Topic};

/// An object that is to become a message of type `info`. Copied only when something must be filled in.
pub(crate) struct Draft<'a> {
    info: &'static TypeInfo,
    object: Cow<'a, Input<'a>>,
}

impl<'a> Draft<'a> {
    /// Of an object as it was parsed.
    pub(crate) const fn of(info: &'static TypeInfo, object: &'a Input<'a>) -> Self {
        Self { info, object: Cow::Borrowed(object) }
    }

    /// Of members put together.
    pub(crate) const fn from_members(
        info: &'static TypeInfo,
        members: Vec<(Cow<'a, str>, Input<'a>)>,
    ) -> Self {
        Self { info, object: Cow::Owned(Input::Object("", members)) }
    }

    /// The member called `name`; `null` is the same as not there.
    pub(crate) fn get(&self, name: &str) -> Option<&Input<'a>> {
        let Input::Object(_, members) = &*self.object else { return None };
        members
            .iter()
            .find(|(member, _)| member == name)
            .map(|(_, input)| input)
            .filter(|input| !is_null(input))
    }

    /// Gives the member called `name` a value, unless it has one.
    pub(crate) fn fill(&mut self, name: &'static str, value: impl FnOnce() -> Input<'a>) {
        if self.get(name).is_some() {
            return;
        }
        let Input::Object(_, members) = self.object.to_mut() else { return };
        members.retain(|(member, _)| member != name);
        members.push((Cow::Borrowed(name), value()));
    }

    /// Fills the message's time of happening, when its type has one that must be there.
    pub(crate) fn fill_time(&mut self, stated: Option<&Input<'a>>, now: i64) {
        if let Some(name) = time_field(self.info) {
            self.fill(name, || {
                stated.cloned().unwrap_or_else(|| Input::Text(Timestamp(now).to_string().into()))
            });
        }
    }

    /// The text of a key field. Numbers are names too: `user_id: 42`.
    pub(crate) fn key_text(&self, name: &str) -> Option<&str> {
        match self.get(name)? {
            Input::Text(text) => Some(text),
            Input::Number(text) => Some(text),
            _ => None,
        }
    }

    /// The message and the topic its key fields make.
    ///
    /// # Errors
    /// The field at fault, named as in the protocol.
    pub(crate) fn build(&self) -> Result<(Message, Topic), FieldError> {
        let any_of = self.info.any_of;
        let message = Message::build(self.info, &self.object)?;
        if !any_of.is_empty() && !any_of.iter().any(|name| self.get(name).is_some()) {
            return Err(FieldError::new(any_of[0], FieldReason::AnyOf(any_of)));
        }
        let mut key = String::new();
        for name in self.info.key {
            // As in the bytes: only the last field may have dots of its own.
            let is_last = self.info.key.last() == Some(name);
            let is_whole = is_number(self.info, name);
            let text = self.key_text(name).filter(|text| {
                is_key(text)
                    && (is_last || !text.contains('.'))
                    // A number is in the topic as its digits, however it may be written elsewhere.
                    && (!is_whole || text.parse::<u64>().is_ok_and(|number| number.to_string() == *text))
            });
            let Some(text) = text else {
                return Err(FieldError::new(*name, FieldReason::Key));
            };
            if !key.is_empty() {
                key.push('.');
            }
            key.push_str(text);
        }
        let topic = Topic::of(self.info, &key)
            .map_err(|_| FieldError::new(*self.info.key.last().unwrap_or(&""), FieldReason::Key))?;
        Ok((message, topic))
    }
}

/// True for a key field that is a whole number.
pub(crate) fn is_number(info: &TypeInfo, name: &str) -> bool {
    info.record
        .position(name)
        .is_some_and(|at| matches!(info.record.fields[at].kind, Kind::U8 | Kind::U16 | Kind::U32 | Kind::U64))
}

/// The field that says when a message's event happened: `ts` or `calculated_at`, where it is required.
fn time_field(info: &TypeInfo) -> Option<&'static str> {
    info.record
        .fields
        .iter()
        .find(|field| matches!(field.name, "ts" | "calculated_at") && matches!(field.kind, Kind::Time))
        .map(|field| field.name)
}

/// True for a member that is there but says nothing.
pub(crate) const fn is_null(input: &Input<'_>) -> bool {
    matches!(input, Input::Null)
}
