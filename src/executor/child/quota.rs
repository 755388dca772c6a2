//! The device memory that a vGPU may have.
//!
//! Counted is what the guest asks for: what a driver keeps beside it is the executor's, and the operating system's to
//! limit. Memory that is the guest's own is counted only where the guest asked for the device's (placed buffers), not where
//! kernels have addresses of it (shared buffers).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::lease::{Count, LeasePage};

/// A vGPU's device memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Quota {
    limit: Option<u64>,
    pages: Option<Arc<Pages>>,
    place: Option<usize>,
    /// The log says that there was no more: programs may ask for memory until there is none.
    told: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Pages {
    /// The executor's.
    own: LeasePage,
    /// The vGPU's, which all its executors share.
    all: LeasePage,
}

impl Quota {
    /// A quota that is counted in the executor's page and in that of all its vGPU's executors.
    pub(crate) fn new(limit: Option<u64>, own: LeasePage, all: LeasePage) -> Quota {
        Quota { limit, pages: Some(Arc::new(Pages { own, all })), ..Quota::default() }
    }

    /// The same, for a context that is counted in this place, too.
    pub(crate) fn of_context(&self, place: Option<usize>) -> Quota {
        Quota { place, told: Arc::default(), ..self.clone() }
    }

    /// Most that there can be, in bytes.
    pub(crate) fn limit(&self) -> Option<u64> {
        self.limit
    }

    /// Takes `bytes`, until what is returned is dropped. `None` if the vGPU has not so many left.
    pub(crate) fn take(&self, bytes: u64) -> Option<Charge> {
        let Some(pages) = &self.pages else { return Some(Charge { quota: self.clone(), bytes: 0 }) };
        let limit = self.limit.unwrap_or(u64::MAX);
        let more = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= limit);
        if let Err(used) =
            pages.all.total(Count::Memory).fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
        {
            if !self.told.swap(true, Ordering::Relaxed) {
                log::warn!(
                    "a context gets no {bytes} bytes of memory more: {used} of {limit} are used (memory)"
                );
            }
            return None;
        }
        let charge = Charge { quota: self.clone(), bytes };
        for count in charge.own() {
            count.fetch_add(bytes, Ordering::Relaxed);
        }
        Some(charge)
    }
}

/// Memory taken out of a quota, given back when dropped.
#[derive(Debug)]
pub(crate) struct Charge {
    quota: Quota,
    bytes: u64,
}

impl Charge {
    fn own(&self) -> impl Iterator<Item = &AtomicU64> {
        let place = self.quota.place;
        self.quota.pages.iter().flat_map(move |pages| {
            let context = place.map(|place| pages.own.context(place, Count::Memory));
            [Some(pages.own.total(Count::Memory)), context].into_iter().flatten()
        })
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let all = self.quota.pages.as_ref().map(|pages| pages.all.total(Count::Memory));
        for count in self.own().chain(all) {
            // Whoever meddles with the page must not make it wrap around.
            let less = |used: u64| Some(used.saturating_sub(self.bytes));
            let _always = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executors_of_a_vgpu_share_its_memory_and_give_it_back() {
        let (all, _all) = LeasePage::create().unwrap();
        let own: Vec<LeasePage> = (0..2).map(|_| LeasePage::create().unwrap().0).collect();
        let quota =
            |index: usize| Quota::new(Some(1000), own[index].clone(), all.clone()).of_context(Some(3));
        let (first, second) = (quota(0), quota(1));
        let taken = first.take(600).unwrap();
        assert!(second.take(401).is_none());
        assert!(second.take(u64::MAX).is_none());
        let rest = second.take(400).unwrap();
        assert_eq!(own[0].total(Count::Memory).load(Ordering::Relaxed), 600);
        assert_eq!(own[1].context(3, Count::Memory).load(Ordering::Relaxed), 400);
        drop(taken);
        assert_eq!(all.total(Count::Memory).load(Ordering::Relaxed), 400);
        drop(rest);
        for page in own.iter().chain([&all]) {
            assert_eq!(page.total(Count::Memory).load(Ordering::Relaxed), 0);
        }
    }

    #[test]
    fn without_a_page_there_is_no_end_of_memory() {
        assert!(Quota::default().take(u64::MAX).is_some());
    }
}
