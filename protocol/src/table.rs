//! The macros behind the one message table: each entry becomes a struct, its rkyv layout, a compile-time
//! check of that layout, a registry row, and the code that checks, reads, builds and samples it.

/// A record: a struct whose archived form is its fields one after the other.
macro_rules! record {
    (
        $(#[doc = $doc:literal])+
        $text:literal $name:ident / $archived:ident {
            $( $(#[doc = $field_doc:literal])+ $field:ident : $type:ty, $unit:literal; )*
        }
    ) => {
        $(#[doc = $doc])+
        #[derive(Clone, Debug, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
        pub struct $name {
            $( $(#[doc = $field_doc])+ #[doc = concat!("\n\nUnit: ", $unit, ".")] pub $field: $type, )*
        }

        impl $name {
            /// The record's fields, as laid out.
            pub const RECORD: $crate::field::RecordInfo = $crate::field::RecordInfo {
                name: $text,
                fields: &[$( $crate::field::FieldInfo {
                    name: stringify!($field),
                    kind: <$type as $crate::field::Field>::KIND,
                    offset: core::mem::offset_of!($archived, $field),
                    unit: $unit,
                    doc: concat!($($field_doc),+),
                }, )*],
            };
        }

        const _: () = $crate::field::assert_layout(
            &$name::RECORD,
            core::mem::size_of::<$archived>(),
            core::mem::align_of::<$archived>(),
        );

        impl $crate::field::Field for $name {
            const KIND: $crate::field::Kind = $crate::field::Kind::Record(&$name::RECORD);

            fn build(
                input: Option<&$crate::field::Input<'_>>,
            ) -> Result<Self, $crate::error::FieldError> {
                let members = $crate::table::members(input, &$name::RECORD)?;
                $( let $field = $crate::table::build_member(members, stringify!($field))?; )*
                Ok(Self { $($field,)* })
            }

            fn sample(_: &str, full: bool) -> Self {
                Self {
                    $( $field: <$type as $crate::field::Field>::sample(stringify!($field), full), )*
                }
            }
        }

        impl $crate::field::ArchivedField for $archived {
            fn view(&self) -> $crate::field::Value<'_> {
                $crate::field::Value::Record(self)
            }

            fn check(&self) -> Result<(), $crate::error::FieldError> {
                $( $crate::field::ArchivedField::check(&self.$field)
                    .map_err(|error| error.within(stringify!($field)))?; )*
                Ok(())
            }
        }

        impl $crate::field::RecordView for $archived {
            fn info(&self) -> &'static $crate::field::RecordInfo {
                &$name::RECORD
            }

            fn get(&self, index: usize) -> $crate::field::Value<'_> {
                let fields: &[&dyn $crate::field::ArchivedField] = &[$(&self.$field,)*];
                fields[index].view()
            }
        }
    };
}

/// A set of names carried as one byte; see [`crate::field::NameSet`].
macro_rules! names {
    (
        $(#[doc = $doc:literal])+
        $text:literal $name:ident / $archived:ident { $($constant:ident = $number:literal $member:literal,)* }
    ) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash,
            rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
        pub struct $name(pub u8);

        impl $name {
            $( #[doc = concat!("`", $member, "`")] pub const $constant: Self = Self($number); )*

            /// Numbers and names.
            pub const NAMES: $crate::field::NameSet = $crate::field::NameSet {
                name: $text,
                members: &[$(($number, $member),)*],
                names: &[$($member,)*],
            };

            /// The name, or `"unknown"` for a number of a newer version.
            #[must_use]
            pub fn name(self) -> &'static str {
                Self::NAMES.name_of(self.0).unwrap_or("unknown")
            }
        }

        impl $crate::field::Field for $name {
            const KIND: $crate::field::Kind = $crate::field::Kind::Name(&$name::NAMES);

            fn build(
                input: Option<&$crate::field::Input<'_>>,
            ) -> Result<Self, $crate::error::FieldError> {
                $crate::table::build_name(input, &$name::NAMES).map(Self)
            }

            fn sample(_: &str, full: bool) -> Self {
                let members = Self::NAMES.members;
                Self(members[if full { members.len() - 1 } else { 0 }].0)
            }
        }

        impl $crate::field::ArchivedField for $archived {
            fn view(&self) -> $crate::field::Value<'_> {
                $crate::field::Value::Name(&$name::NAMES, self.0)
            }
            fn check(&self) -> Result<(), $crate::error::FieldError> {
                Ok(())
            }
        }
    };
}

/// The table of messages. Each row is a record with a number, a version and what the server needs to know
/// to route it.
macro_rules! messages {
    ($(
        $(#[doc = $doc:literal])+
        $id:literal version $version:literal $text:literal $name:ident / $archived:ident
        $class:ident
        key [$($key:ident)*]
        conflate [$($conflate:ident)*]
        attributes [$($attribute:ident = $attribute_field:ident)*]
        raise [$($raise:expr)?]
        any_of [$($any_of:ident)*]
        $(base [$base:expr])?
        $(bounds [$($bound:expr),+])?
        { $( $(#[doc = $field_doc:literal])+ $field:ident : $type:ty, $unit:literal; )* }
    )+) => {
        $( record! {
            $(#[doc = $doc])+
            $text $name / $archived {
                $( $(#[doc = $field_doc])+ $field : $type, $unit; )*
            }
        } )+

        $( impl $name {
            /// The row of the table this message is.
            pub const INFO: $crate::registry::TypeInfo = $crate::registry::TypeInfo {
                id: $id,
                version: $version,
                name: $text,
                doc: concat!($($doc),+),
                class: $crate::message::Class::$class,
                record: &$name::RECORD,
                key: &[$(stringify!($key),)*],
                conflate: &[$(stringify!($conflate),)*],
                attributes: &[$(($crate::registry::Attribute::$attribute, stringify!($attribute_field)),)*],
                raise: &[$($raise)?],
                any_of: &[$(stringify!($any_of),)*],
                base: &[$($base)?],
                bounds: &[$($($bound),+)?],
            };
        } )+

        /// Any message, owned. What a peer says, or what was built to be said.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Message { $( $(#[doc = $doc])+ $name($name), )+ }

        /// Any message, read in place from a checked payload.
        #[derive(Clone, Copy)]
        pub enum View<'a> { $( $(#[doc = $doc])+ $name(&'a $archived), )+ }

        /// Every row of the table, in order of type id.
        pub(crate) static TYPES: &[$crate::registry::TypeInfo] = &[$($name::INFO,)+];

        $( impl From<$name> for Message {
            fn from(message: $name) -> Self {
                Self::$name(message)
            }
        } )+

        impl Message {
            /// The row of the table this message is.
            #[must_use]
            pub fn info(&self) -> &'static $crate::registry::TypeInfo {
                match self { $( Self::$name(_) => &const { $name::INFO }, )+ }
            }

            /// Appends the payload and returns the size of its root.
            pub(crate) fn encode_payload(&self, out: Vec<u8>) -> (Vec<u8>, u16) {
                match self { $(
                    Self::$name(message) => $crate::table::encode(message, out),
                )+ }
            }

            /// Builds a message of type `info` from the members of an object.
            ///
            /// # Errors
            /// The path of the field at fault, and why.
            pub fn build(
                info: &$crate::registry::TypeInfo,
                input: &$crate::field::Input<'_>,
            ) -> Result<Self, $crate::error::FieldError> {
                match info.id {
                    $( $id => <$name as $crate::field::Field>::build(Some(input)).map(Self::$name), )+
                    _ => Err($crate::error::FieldError::new("type", $crate::error::FieldReason::Unknown)),
                }
            }

            /// The example of type `info` that golden files hold; `full` fills every optional part.
            ///
            /// # Panics
            /// When `info` is not of the registry.
            #[must_use]
            pub fn sample(info: &$crate::registry::TypeInfo, full: bool) -> Self {
                match info.id {
                    $( $id => {
                        #[allow(unused_mut, reason = "only types with a group of alternatives need it")]
                        let mut message = <$name as $crate::field::Field>::sample($text, full);
                        $crate::table::sample_any_of!(message, [$($any_of)*]);
                        Self::$name(message)
                    } )+
                    other => panic!("no type has id {other}"),
                }
            }
        }

        impl<'a> View<'a> {
            /// Reads the root of type `type_id` in place, after checking every offset, tag and text.
            ///
            /// # Errors
            /// [`DecodeError`](crate::error::DecodeError), when the type is unknown or the payload broken.
            pub fn access(
                type_id: u16,
                payload: &'a [u8],
                root_len: u16,
            ) -> Result<Self, $crate::error::DecodeError> {
                match type_id {
                    $( $id => $crate::table::access::<$archived>(payload, root_len, $text).map(Self::$name), )+
                    other => Err($crate::error::DecodeError::UnknownType(other)),
                }
            }

            /// The row of the table this message is.
            #[must_use]
            pub fn info(self) -> &'static $crate::registry::TypeInfo {
                match self { $( Self::$name(_) => &const { $name::INFO }, )+ }
            }

            /// Its fields.
            #[must_use]
            pub fn record(self) -> &'a dyn $crate::field::RecordView {
                match self { $( Self::$name(archived) => archived, )+ }
            }

            /// Checks what the structure cannot show: bounds, contents, and required groups.
            ///
            /// # Errors
            /// The first field at fault.
            pub fn check(self) -> Result<(), $crate::error::FieldError> {
                match self { $( Self::$name(archived) => {
                    $crate::field::ArchivedField::check(archived)?;
                } )+ }
                $crate::table::check_any_of(self)?;
                $crate::table::check_bounds(self)
            }

            /// An owned copy.
            #[must_use]
            pub fn to_owned(self) -> Message {
                match self { $( Self::$name(archived) => Message::$name($crate::table::owned(archived)), )+ }
            }
        }
    };
}

/// In a minimal sample the first field of a group of alternatives is there.
macro_rules! sample_any_of {
    ($message:ident, []) => {};
    ($message:ident, [$first:ident $($rest:ident)*]) => {
        if $message.$first.is_none() {
            $message.$first = $crate::field::Field::sample(stringify!($first), true);
        }
    };
}

pub(crate) use {messages, names, record, sample_any_of};

use std::borrow::Cow;
use std::num::NonZeroUsize;

use rkyv::api::access_pos_with_context;
use rkyv::api::high::{HighDeserializer, HighSerializer, to_bytes_in};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::{Failure, Panic, Strategy};
use rkyv::ser::allocator::ArenaHandle;
use rkyv::traits::Portable;
use rkyv::validation::Validator;
use rkyv::validation::archive::ArchiveValidator;
use rkyv::{Deserialize, Serialize};

use crate::error::{DecodeError, FieldError, FieldReason};
use crate::field::{Field, Input, NameSet, RecordInfo, Value};
use crate::message::View;
use crate::registry::Bound;

/// Deepest nesting of out-of-line data: root, list, record, text. A valid archive of our types has four.
const DEPTH_MAX: NonZeroUsize = NonZeroUsize::new(8).expect("not zero");

type Checker<'a> = Strategy<Validator<ArchiveValidator<'a>, ()>, Failure>;

/// Checked access at the position that `root_len` names, so that a newer, longer root reads as its prefix.
pub(crate) fn access<'a, A>(
    payload: &'a [u8],
    root_len: u16,
    type_name: &'static str,
) -> Result<&'a A, DecodeError>
where
    A: Portable + for<'b> CheckBytes<Checker<'b>>,
{
    let root_len = usize::from(root_len);
    if root_len < size_of::<A>() || root_len > payload.len() {
        return Err(DecodeError::HeaderField {
            field: "root_len",
            value: root_len as u64,
            allowed: "at least the type's root size and at most raw_len",
        });
    }
    let mut context = Validator::new(ArchiveValidator::with_max_depth(payload, Some(DEPTH_MAX)), ());
    access_pos_with_context::<A, _, Failure>(payload, payload.len() - root_len, &mut context)
        .map_err(|_| DecodeError::Payload { type_name })
}

/// Appends an archive; its root lies last. The writer must be empty: positions start at zero.
pub(crate) fn encode<T>(message: &T, out: Vec<u8>) -> (Vec<u8>, u16)
where
    T: for<'a> Serialize<HighSerializer<Vec<u8>, ArenaHandle<'a>, Panic>>,
{
    debug_assert!(out.is_empty(), "relative pointers are relative to the payload");
    // Cannot fail: the writer grows and no wire type has a fallible part.
    let Ok(out) = to_bytes_in::<_, Panic>(message, out);
    (out, size_of::<T::Archived>() as u16)
}

/// Copies an archive out.
pub(crate) fn owned<T, A>(archived: &A) -> T
where
    A: Deserialize<T, HighDeserializer<Panic>>,
{
    let Ok(message) = rkyv::api::high::deserialize::<T, Panic>(archived);
    message
}

/// The members of an object that is to become a record; refuses names the record does not have.
pub(crate) fn members<'a, 'b>(
    input: Option<&'a Input<'b>>,
    record: &RecordInfo,
) -> Result<&'a [(Cow<'b, str>, Input<'b>)], FieldError> {
    match input {
        Some(Input::Object(_, members)) => {
            match members.iter().find(|(name, _)| record.position(name).is_none()) {
                Some((name, _)) => {
                    Err(FieldError::new(name.chars().take(64).collect::<String>(), FieldReason::Unknown))
                }
                None => Ok(members),
            }
        }
        None | Some(Input::Null) => Err(FieldError::new("", FieldReason::Missing)),
        Some(_) => Err(FieldError::new("", FieldReason::Kind { expected: "an object" })),
    }
}

/// Builds the field called `name`.
pub(crate) fn build_member<T: Field>(
    members: &[(Cow<'_, str>, Input<'_>)],
    name: &str,
) -> Result<T, FieldError> {
    let input = members.iter().find(|(member, _)| member == name).map(|(_, input)| input);
    T::build(input).map_err(|error| error.within(name))
}

/// Builds a name from text, or from its number.
pub(crate) fn build_name(input: Option<&Input<'_>>, names: &'static NameSet) -> Result<u8, FieldError> {
    let found = match input {
        None | Some(Input::Null) => return Err(FieldError::new("", FieldReason::Missing)),
        Some(Input::Text(text)) => names.number_of(text),
        Some(Input::Number(text)) => text.parse().ok().filter(|number| names.name_of(*number).is_some()),
        Some(_) => None,
    };
    found.ok_or(FieldError::new("", FieldReason::Name(names.names)))
}

/// A type with a group of alternatives needs at least one of them.
pub(crate) fn check_any_of(view: View<'_>) -> Result<(), FieldError> {
    let info = view.info();
    if info.any_of.is_empty() {
        return Ok(());
    }
    let record = view.record();
    let there = |name: &&str| {
        info.record.position(name).is_some_and(|index| !matches!(record.get(index), Value::Absent))
    };
    if info.any_of.iter().any(there) {
        return Ok(());
    }
    Err(FieldError::new(info.any_of[0], FieldReason::AnyOf(info.any_of)))
}

/// What the table bounds beyond the limits of every field.
pub(crate) fn check_bounds(view: View<'_>) -> Result<(), FieldError> {
    for bound in view.info().bounds {
        match *bound {
            Bound::Within { field, min, max } => {
                if let Value::Unsigned(number) = view.field(field)
                    && !(min..=max).contains(&number)
                {
                    return Err(FieldError::new(field, FieldReason::Bounds { min, max }));
                }
            }
            Bound::AtMost { list, field } => {
                if let (Value::List(list_view), Value::Unsigned(most)) = (view.field(list), view.field(field))
                    && list_view.len() as u64 > most
                {
                    let limit = usize::try_from(most).unwrap_or(usize::MAX);
                    let reason = FieldReason::TooLong { length: list_view.len(), limit, unit: "elements" };
                    return Err(FieldError::new(list, reason));
                }
            }
        }
    }
    Ok(())
}
