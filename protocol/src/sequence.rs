//! Order and identity: sequences within epochs, interned stream ids.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// An event's number on its stream: 1 for the first, then without holes, within one [`Epoch`].
    /// Zero means "none yet" (and is what publishers send).
    Sequence(u64)
}
number! {
    /// One life of the server's history. Sequences of different epochs cannot be compared.
    Epoch(u64)
}
number! {
    /// One run of the server process. Stream ids are never reused within it.
    BootId(u64)
}
number! {
    /// A stream, that is a (topic, class) pair, as interned by the server. Zero means none.
    StreamId(u32)
}
number! {
    /// A subscription, as numbered by the server for one connection. Zero means none.
    SubscriptionId(u32)
}

impl Sequence {
    /// The sequence that follows this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// How many events lie strictly between `self` and a later `arrived`; zero when it follows directly
    /// or is not later.
    #[must_use]
    pub fn missing_before(self, arrived: Self) -> u64 {
        arrived.0.saturating_sub(self.0.saturating_add(1))
    }
}
