//! Places that are used again.
#![forbid(unsafe_code)]

#[derive(Debug)]
pub(crate) struct Slots<T> {
    slots: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slots<T> {
    pub(crate) fn insert(&mut self, value: T) -> u32 {
        match self.free.pop() {
            Some(index) => {
                self.slots[index as usize] = Some(value);
                index
            }
            None => {
                self.slots.push(Some(value));
                self.slots.len() as u32 - 1
            }
        }
    }

    pub(crate) fn remove(&mut self, index: u32) -> T {
        self.free.push(index);
        self.slots[index as usize].take().expect("removed once")
    }

    pub(crate) fn get(&self, index: u32) -> &T {
        self.slots[index as usize].as_ref().expect("not removed")
    }

    pub(crate) fn get_mut(&mut self, index: u32) -> &mut T {
        self.slots[index as usize].as_mut().expect("not removed")
    }

    /// The value at `index`, unless it was removed.
    pub(crate) fn find_mut(&mut self, index: u32) -> Option<&mut T> {
        self.slots.get_mut(index as usize)?.as_mut()
    }
}
