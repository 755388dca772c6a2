//! Builds that compilers have come to an end with: a table of hashes that executors share, and that lives as long as the
//! directory in which drivers keep what was built.
//!
//! A build that is in there is not tried again. Executors write to the table, so on a CPU device the guest does: it can have
//! its own executors build what no compiler has tried, and nobody else's.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use siphasher::sip128::{Hasher128, SipHasher13};

/// The key comes first, then the buckets.
const KEY_BYTES: usize = 16;
const HASH_BYTES: usize = 16;
const BUCKET_HASHES: usize = 16;
const BUCKET_BYTES: usize = BUCKET_HASHES * HASH_BYTES;
const BUCKETS: u64 = 1024;
const TABLE_BYTES: u64 = KEY_BYTES as u64 + BUCKETS * BUCKET_BYTES as u64;

/// Most builds that a table has room for: a flood overwrites what was there.
#[cfg(test)]
const MOST: u64 = BUCKETS * BUCKET_HASHES as u64;

/// A table as the broker has it. Pages that nobody has written to cost nothing.
#[derive(Debug)]
pub struct KnownTable(File);

impl KnownTable {
    /// An empty one, with a key that no guest can know before its executor runs: so none can prepare a build that passes for
    /// another. Nobody can make it longer or shorter.
    pub fn new() -> io::Result<KnownTable> {
        let file = memfd_create("paragpu-known", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        let file = File::from(file);
        file.set_len(TABLE_BYTES)?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let mut key = [0; KEY_BYTES];
        File::open("/dev/urandom")?.read_exact(&mut key)?;
        file.write_all_at(&key, 0)?;
        Ok(KnownTable(file))
    }
}

impl AsFd for KnownTable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A table as an executor has it.
#[derive(Debug)]
pub(crate) struct Known {
    table: File,
    /// Has hashed everything that an end depends on beside the recipe.
    circumstances: SipHasher13,
}

impl Known {
    /// What is known of builds under these circumstances: within which limits, for which devices.
    pub(crate) fn open(table: OwnedFd, circumstances: &[u8]) -> io::Result<Known> {
        let table = File::from(table);
        let mut key = [0; KEY_BYTES];
        table.read_exact_at(&mut key, 0)?;
        let mut hasher = SipHasher13::new_with_key(&key);
        add(&mut hasher, circumstances);
        Ok(Known { table, circumstances: hasher })
    }

    /// True if a compiler has come to an end with it. One that was known may be forgotten.
    pub(crate) fn contains(&self, recipe: &[u8]) -> bool {
        let (at, hash) = self.place(recipe);
        let mut bucket = [0; BUCKET_BYTES];
        self.table.read_exact_at(&mut bucket, at).is_ok() && position(&bucket, hash).is_some()
    }

    /// A compiler has come to an end with it. Of two executors that write at once to the same place, one wins.
    pub(crate) fn insert(&self, recipe: &[u8]) {
        let (at, hash) = self.place(recipe);
        let mut bucket = [0; BUCKET_BYTES];
        if let Err(error) = self.table.read_exact_at(&mut bucket, at) {
            return log::debug!("what is known of builds: {error}");
        }
        if position(&bucket, hash).is_some() {
            return;
        }
        // In the place of another that the hash chooses, if none is free: which, nobody can foresee.
        let index = position(&bucket, [0; HASH_BYTES]).unwrap_or(usize::from(hash[8]) % BUCKET_HASHES);
        if let Err(error) = self.table.write_all_at(&hash, at + (index * HASH_BYTES) as u64) {
            log::debug!("what is known of builds: {error}");
        }
    }

    /// Where the recipe's bucket begins, and its hash, which is not zero: that is a free place.
    fn place(&self, recipe: &[u8]) -> (u64, [u8; HASH_BYTES]) {
        let mut hasher = self.circumstances;
        add(&mut hasher, recipe);
        let hash = hasher.finish128();
        let at = KEY_BYTES as u64 + hash.h2 % BUCKETS * BUCKET_BYTES as u64;
        let [low, high] = [hash.h1 | 1, hash.h2];
        (at, (u128::from(high) << 64 | u128::from(low)).to_le_bytes())
    }
}

/// Behind its length, so that what follows begins nowhere else.
fn add(hasher: &mut SipHasher13, bytes: &[u8]) {
    use std::hash::Hasher;
    hasher.write(&(bytes.len() as u64).to_le_bytes());
    hasher.write(bytes);
}

fn position(bucket: &[u8], hash: [u8; HASH_BYTES]) -> Option<usize> {
    bucket.chunks_exact(HASH_BYTES).position(|there| there == hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(table: &KnownTable, circumstances: &str) -> Known {
        Known::open(table.as_fd().try_clone_to_owned().unwrap(), circumstances.as_bytes()).unwrap()
    }

    #[test]
    fn what_one_has_found_out_all_with_the_same_table_and_circumstances_know() {
        let (table, other) = (KnownTable::new().unwrap(), KnownTable::new().unwrap());
        let one = open(&table, "60 s");
        one.insert(b"recipe");
        one.insert(b"recipe");
        assert!(one.contains(b"recipe") && open(&table, "60 s").contains(b"recipe"));
        for (table, circumstances, recipe) in [
            (&table, "60 s", "other"),
            (&table, "30 s", "recipe"),
            (&table, "60 sr", "ecipe"),
            (&other, "60 s", "recipe"),
        ] {
            assert!(!open(table, circumstances).contains(recipe.as_bytes()), "{circumstances} {recipe}");
        }
    }

    #[test]
    fn a_flood_drives_others_out_and_takes_no_more_room() {
        let table = KnownTable::new().unwrap();
        let known = open(&table, "");
        let is_known = |number: u64| known.contains(&number.to_le_bytes());
        (0..4 * MOST).for_each(|number| known.insert(&number.to_le_bytes()));
        let count = (0..4 * MOST).filter(|number| is_known(*number)).count() as u64;
        assert!((MOST / 2..=MOST).contains(&count), "{count}");
        assert!(is_known(4 * MOST - 1));
        assert_eq!(table.0.metadata().unwrap().len(), TABLE_BYTES);
        assert!(table.0.set_len(TABLE_BYTES + 1).is_err() && table.0.set_len(0).is_err());
    }

    #[test]
    fn what_others_write_there_makes_nothing_fail() {
        let table = KnownTable::new().unwrap();
        let known = open(&table, "");
        table.0.write_all_at(&vec![0xff; TABLE_BYTES as usize], 0).unwrap();
        assert!(!known.contains(b"recipe"));
        known.insert(b"recipe");
        assert!(known.contains(b"recipe"));
        let empty = memfd_create("empty", MemfdFlags::CLOEXEC).unwrap();
        assert!(Known::open(empty, b"").is_err());
    }
}
