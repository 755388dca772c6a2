//! Who has one device, and for how long: decisions only. What happens goes in with its time, orders come out; words in
//! shared memory, threads and clocks are [outside](super::scheduler).
//!
//! A *client* is one executor, which wants leases; an *account* is the vGPU that it belongs to, which pays for them.

use std::collections::BTreeMap;

use super::account::{Account, Nanos, Rank};
use super::hold::{Hold, MIN_RUN, look_again, makes_way, min_run};
use super::policy::{Policy, Sharing, Terms};
use crate::lease::word::Look;

/// What an account is called.
pub(super) type AccountId = u64;
/// What a client is called.
pub(super) type ClientId = u64;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Lend the device to it.
    Lend(ClientId, bool),
    /// Tell it whether others wait.
    Contend(ClientId, bool),
    /// Take the lease back, or ask for it.
    Take(ClientId),
    /// Look at what it does, and [tell](Arbiter::observe).
    Observe(ClientId),
    /// End its executor: a submission of it runs too long.
    Evict(ClientId),
}

#[derive(Clone, Copy, Debug)]
enum State {
    Idle,
    Waiting(Nanos),
    Holding(Hold),
    /// Its executor is being ended.
    Evicted,
}

#[derive(Clone, Copy, Debug)]
struct Client {
    account: AccountId,
    state: State,
}

/// What the arbiter tells of how long somebody waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waited {
    pub(super) account: AccountId,
    pub(super) since: Nanos,
    pub(super) until: Nanos,
}

/// What the arbiter tells of how long somebody had the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) account: AccountId,
    pub(super) since: Nanos,
    pub(super) until: Nanos,
    /// It was asked to give it back.
    pub(super) recalled: bool,
}

/// How an account stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) connections: usize,
    pub(super) waiting: bool,
    pub(super) holding: bool,
    pub(super) paused: bool,
    pub(super) backed_off: bool,
}

/// One device's leases.
#[derive(Clone, Debug)]
pub(super) struct Arbiter {
    sharing: Sharing,
    accounts: BTreeMap<AccountId, Account>,
    clients: BTreeMap<ClientId, Client>,
    /// Nobody who starts to want the device is before this.
    floor: u128,
    orders: Vec<Order>,
    waits: Vec<Waited>,
    holds: Vec<Held>,
    /// Device time charged per account since the last [`take_charges`](Arbiter::take_charges).
    charges: Vec<(AccountId, Nanos)>,
    next: Option<Nanos>,
}

impl Arbiter {
    pub(super) fn new(sharing: Sharing) -> Arbiter {
        Arbiter {
            sharing,
            accounts: BTreeMap::new(),
            clients: BTreeMap::new(),
            floor: 0,
            orders: Vec::new(),
            waits: Vec::new(),
            holds: Vec::new(),
            charges: Vec::new(),
            next: None,
        }
    }

    /// Takes what is to be done since the last call.
    pub(super) fn take_orders(&mut self) -> Vec<Order> {
        std::mem::take(&mut self.orders)
    }

    /// Takes the waits that have ended.
    pub(super) fn take_waits(&mut self) -> Vec<Waited> {
        std::mem::take(&mut self.waits)
    }

    /// Takes the holds that have ended.
    pub(super) fn take_holds(&mut self) -> Vec<Held> {
        std::mem::take(&mut self.holds)
    }

    /// Since when those hold the device who do.
    pub(super) fn holding(&self) -> Vec<Held> {
        let held = |client: &Client| match client.state {
            State::Holding(hold) => {
                let recalled = hold.recalled.is_some();
                Some(Held { account: client.account, since: hold.since, until: hold.since, recalled })
            }
            _ => None,
        };
        self.clients.values().filter_map(held).collect()
    }

    /// Takes what was charged.
    pub(super) fn take_charges(&mut self) -> Vec<(AccountId, Nanos)> {
        std::mem::take(&mut self.charges)
    }

    /// When [`tick`](Arbiter::tick) is due.
    pub(super) fn next_tick(&self) -> Option<Nanos> {
        self.next
    }

    pub(super) fn add_account(&mut self, id: AccountId, terms: Terms, now: Nanos) {
        self.accounts.insert(id, Account::new(terms, now));
        self.settle(now);
    }

    pub(super) fn remove_account(&mut self, id: AccountId, now: Nanos) {
        let clients: Vec<ClientId> = self.clients_of(id).collect();
        for client in clients {
            self.remove_client(client, None, now);
        }
        self.accounts.remove(&id);
        self.settle(now);
    }

    pub(super) fn set_terms(&mut self, id: AccountId, terms: Terms, now: Nanos) {
        if let Some(account) = self.accounts.get_mut(&id) {
            account.set_terms(terms, self.floor, now);
        }
        self.settle(now);
    }

    pub(super) fn set_paused(&mut self, id: AccountId, paused: bool, now: Nanos) {
        if let Some(account) = self.accounts.get_mut(&id) {
            account.paused = paused;
            if !paused {
                account.forgive();
            }
        }
        self.settle(now);
    }

    /// A submission of the account's had to be ended on another device.
    pub(super) fn strike(&mut self, id: AccountId, now: Nanos) {
        if let Some(account) = self.accounts.get_mut(&id) {
            account.strike(now);
        }
        self.settle(now);
    }

    pub(super) fn add_client(&mut self, id: ClientId, account: AccountId, now: Nanos) {
        if let Some(entry) = self.accounts.get_mut(&account) {
            entry.connections += 1;
            self.clients.insert(id, Client { account, state: State::Idle });
        }
        self.settle(now);
    }

    /// A client is gone, with whatever it had; its last claim, if it is known.
    pub(super) fn remove_client(&mut self, id: ClientId, claim: Option<u64>, now: Nanos) {
        self.end_hold(id, claim, now);
        if let Some(client) = self.clients.remove(&id)
            && let Some(account) = self.accounts.get_mut(&client.account)
        {
            account.connections -= 1;
        }
        self.settle(now);
    }

    /// Charges what holders have used so far, before anything changes: whoever comes to want the device now begins where
    /// they are. `claim` reads a client's claim, and how many of its commands have landed.
    pub(super) fn update(&mut self, claim: impl Fn(ClientId) -> Option<(u64, u64)>, now: Nanos) {
        let mut charges = Vec::new();
        for (id, client) in &mut self.clients {
            if let State::Holding(hold) = &mut client.state
                && let Some((claim, landed)) = claim(*id)
            {
                hold.see(landed, now);
                charges.push((client.account, hold.due(claim, now)));
            }
        }
        for (account, due) in charges {
            self.charge(account, due);
        }
        self.raise_floor(now);
    }

    /// A client has rung, and this is what its word says.
    pub(super) fn rung(&mut self, id: ClientId, look: Look, claim: u64, now: Nanos) {
        let Some(client) = self.clients.get(&id) else { return };
        let holding = matches!(client.state, State::Holding(_));
        match (look, holding) {
            (Look::None | Look::Wanted, true) => self.end_hold(id, Some(claim), now),
            (Look::Idle | Look::Busy, _) => return,
            (_, false) => {}
        }
        if look == Look::Wanted {
            self.want(id, now);
        } else if let Some(Client { state: state @ State::Waiting(_), .. }) = self.clients.get_mut(&id) {
            *state = State::Idle;
        }
        self.settle(now);
    }

    /// What came of an order to lend: the client may not want it any more.
    pub(super) fn not_lent(&mut self, id: ClientId, now: Nanos) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.state = State::Idle;
        }
        self.settle(now);
    }

    /// The client was lent the device; its claim and its landed commands at that moment.
    pub(super) fn lent(&mut self, id: ClientId, claim: u64, landed: u64) {
        if let Some(Client { state: State::Holding(hold), .. }) = self.clients.get_mut(&id) {
            (hold.claim, hold.landed.0) = (claim, landed);
        }
    }

    /// The lease has been taken back.
    pub(super) fn taken(&mut self, id: ClientId, claim: u64, now: Nanos) {
        self.end_hold(id, Some(claim), now);
        self.settle(now);
    }

    /// True if a holder had landed as many commands when it was last looked at.
    pub(super) fn has_seen(&self, id: ClientId, landed: u64) -> bool {
        let state = self.clients.get(&id).map(|client| client.state);
        matches!(state, Some(State::Holding(hold)) if hold.landed.0 == landed)
    }

    /// What a holder was seen to do: its claim, and how many of its commands have landed; or nothing, then the lease has
    /// been taken back.
    pub(super) fn observe(&mut self, id: ClientId, claim: u64, landed: u64, now: Nanos) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let State::Holding(hold) = &mut client.state else { return };
        hold.observed = now;
        hold.see(landed, now);
        let stuck = now.saturating_sub(hold.landed.1);
        let due = hold.due(claim, now);
        let id_of_account = client.account;
        let limit = self.accounts.get(&id_of_account).map_or(Nanos::MAX, Account::submission_limit);
        self.charge(id_of_account, due);
        if stuck >= limit {
            self.evict(id, now);
        }
        self.settle(now);
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, now: Nanos) {
        self.settle(now);
    }

    pub(super) fn standing(&self, id: AccountId, now: Nanos) -> Standing {
        let Some(account) = self.accounts.get(&id) else { return Standing::default() };
        let states =
            || self.clients.values().filter(|client| client.account == id).map(|client| client.state);
        Standing {
            connections: account.connections,
            waiting: states().any(|state| matches!(state, State::Waiting(_))),
            holding: states().any(|state| matches!(state, State::Holding(_))),
            paused: account.paused,
            backed_off: account.back_off_until > now,
        }
    }

    /// Accounts that have the device, and those that wait for it.
    pub(super) fn users(&self) -> (Vec<AccountId>, Vec<AccountId>) {
        let of = |which: fn(&State) -> bool| {
            self.clients.values().filter(|client| which(&client.state)).map(|client| client.account).collect()
        };
        (of(|state| matches!(state, State::Holding(_))), of(|state| matches!(state, State::Waiting(_))))
    }

    fn clients_of(&self, id: AccountId) -> impl Iterator<Item = ClientId> {
        self.clients.iter().filter(move |(_, client)| client.account == id).map(|(id, _)| *id)
    }

    fn want(&mut self, id: ClientId, now: Nanos) {
        let Some(client) = self.clients.get(&id) else { return };
        if !matches!(client.state, State::Idle) {
            return;
        }
        let account = client.account;
        let active = self.clients.values().any(|client| {
            client.account == account && matches!(client.state, State::Waiting(_) | State::Holding(_))
        });
        // Whoever comes back has saved nothing up, but still owes what it took too much.
        if !active && let Some(account) = self.accounts.get_mut(&account) {
            account.virtual_time = account.virtual_time.max(self.floor);
        }
        if let Some(client) = self.clients.get_mut(&id) {
            client.state = State::Waiting(now);
        }
    }

    fn charge(&mut self, account: AccountId, used: Nanos) {
        if used == 0 {
            return;
        }
        if let Some(entry) = self.accounts.get_mut(&account) {
            entry.charge(used);
        }
        self.charges.push((account, used));
    }

    fn end_hold(&mut self, id: ClientId, claim: Option<u64>, now: Nanos) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let State::Holding(mut hold) = client.state else { return };
        client.state = State::Idle;
        let account = client.account;
        // Of one that is gone it is not known what it did: then all of the time counts.
        let due = hold.due(claim.unwrap_or(u64::MAX), now);
        self.holds.push(Held { account, since: hold.since, until: now, recalled: hold.recalled.is_some() });
        self.charge(account, due);
    }

    /// Makes everything right that follows from what has happened.
    fn settle(&mut self, now: Nanos) {
        self.refill(now);
        self.raise_floor(now);
        let leases = self.sharing.leases.max(1) as usize;
        loop {
            if self.holders().count() >= leases {
                break;
            }
            let Some((id, since, _)) = self.best_waiting(now) else { break };
            self.lend(id, since, now);
        }
        self.tell_contention(now);
        self.recall(leases, now);
        self.next = self.due_next(leases, now);
    }

    fn refill(&mut self, now: Nanos) {
        let connected = self.accounts.values().filter(|account| account.connections > 0);
        let (mut equal, mut fixed) = (0, 0.0);
        for account in connected {
            match account.terms.policy {
                Policy::FixedShare { share } => fixed += share / 100.0,
                _ => equal += 1,
            }
        }
        let equal = (1.0 - fixed).max(0.01) / f64::from(equal.max(1));
        for account in self.accounts.values_mut() {
            account.set_limit(equal, now);
            account.refill(now);
        }
    }

    /// The least virtual time of those who want or have the device: nobody comes back with less, be it from doing nothing,
    /// from a pause or from a back-off.
    fn raise_floor(&mut self, now: Nanos) {
        let active = self.clients.values().filter_map(|client| {
            let account = self.accounts.get(&client.account)?;
            match client.state {
                State::Waiting(_) if account.is_kept_out(now) => None,
                State::Waiting(_) => Some(account.virtual_time),
                State::Holding(hold) => Some(account.virtual_time_with(hold.uncharged(now))),
                State::Idle | State::Evicted => None,
            }
        });
        if let Some(least) = active.min() {
            self.floor = self.floor.max(least);
        }
        for account in self.accounts.values_mut().filter(|account| account.is_kept_out(now)) {
            account.virtual_time = account.virtual_time.max(self.floor);
        }
    }

    fn holders(&self) -> impl Iterator<Item = (ClientId, &Account, Hold)> {
        self.clients.iter().filter_map(|(id, client)| match client.state {
            State::Holding(hold) => Some((*id, self.accounts.get(&client.account)?, hold)),
            _ => None,
        })
    }

    fn waiting(&self) -> impl Iterator<Item = (ClientId, &Account, Nanos)> {
        self.clients.iter().filter_map(|(id, client)| match client.state {
            State::Waiting(since) => Some((*id, self.accounts.get(&client.account)?, since)),
            _ => None,
        })
    }

    fn best_waiting(&self, now: Nanos) -> Option<(ClientId, Nanos, Rank)> {
        self.waiting()
            .filter(|(_, account, _)| account.eligible_at(now) == Some(now))
            .map(|(id, account, since)| (id, since, account.rank(since, 0)))
            .min_by_key(|(_, since, rank)| (*rank, *since))
    }

    fn lend(&mut self, id: ClientId, since: Nanos, now: Nanos) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let account = client.account;
        client.state = State::Holding(Hold::new(now, false, 0, 0));
        self.waits.push(Waited { account, since, until: now });
        let contended = self.is_contended(now);
        if let Some(Client { state: State::Holding(hold), .. }) = self.clients.get_mut(&id) {
            hold.contended = contended;
        }
        self.orders.push(Order::Lend(id, contended));
    }

    fn is_contended(&self, now: Nanos) -> bool {
        self.waiting().any(|(_, account, _)| account.eligible_at(now) == Some(now))
    }

    fn tell_contention(&mut self, now: Nanos) {
        let contended = self.is_contended(now);
        for (id, client) in &mut self.clients {
            if let State::Holding(hold) = &mut client.state
                && hold.contended != contended
            {
                hold.count(now);
                hold.contended = contended;
                self.orders.push(Order::Contend(*id, contended));
            }
        }
    }

    fn recall(&mut self, leases: usize, now: Nanos) {
        let mut ids: Vec<ClientId> = Vec::new();
        // Those who may not have it any more, whoever waits.
        for (id, account, hold) in self.holders() {
            let spent =
                account.limit.as_ref().is_some_and(|limit| limit.left_beside(hold.uncharged(now)) == 0);
            if hold.recalled.is_none() && (account.paused || spent) {
                ids.push(id);
            }
        }
        // Those who must make way, the last first: for each who waits one that is free, or about to be.
        let holders = self.holders().count();
        let leaving = ids.len() + self.holders().filter(|(_, _, hold)| hold.recalled.is_some()).count();
        let mut waiting: Vec<(Rank, Nanos)> = self
            .waiting()
            .filter(|(_, account, _)| account.eligible_at(now) == Some(now))
            .map(|(_, account, since)| (account.rank(since, 0), since))
            .collect();
        waiting.sort();
        let min_run = min_run(waiting.len());
        let free = (leases + leaving).saturating_sub(holders);
        let mut staying: Vec<(Rank, ClientId, Hold)> = self
            .holders()
            .filter(|(id, _, hold)| hold.recalled.is_none() && !ids.contains(id))
            .map(|(id, account, hold)| (account.rank(hold.since, hold.uncharged(now)), id, hold))
            .collect();
        staying.sort_by_key(|(rank, id, _)| (*rank, *id));
        for (best, _) in waiting.into_iter().skip(free) {
            let Some((rank, id, hold)) = staying.pop() else { break };
            if makes_way(rank, hold.ran(now), best, self.slice(), min_run) {
                ids.push(id);
            }
        }
        for id in ids {
            if let Some(Client { state: State::Holding(hold), .. }) = self.clients.get_mut(&id) {
                hold.count(now);
                hold.recalled = Some(now);
                self.orders.push(Order::Take(id));
            }
        }
        // Those who do not give it back, and those whom nobody asks to.
        let (mut evicted, mut observed) = (Vec::new(), Vec::new());
        for (id, account, hold) in self.holders() {
            match hold.recalled {
                Some(_) if hold.overdue_at(account.submission_limit()) <= now => evicted.push(id),
                None if now >= look_again(account, &hold, now) => observed.push(id),
                _ => {}
            }
        }
        for id in observed {
            if let Some(Client { state: State::Holding(hold), .. }) = self.clients.get_mut(&id) {
                hold.observed = now;
            }
            self.orders.push(Order::Observe(id));
        }
        for id in evicted {
            self.end_hold(id, None, now);
            self.evict(id, now);
        }
    }

    /// Has a client ended. Its account waits from now on: what is lent until the order is obeyed is not lent to it.
    fn evict(&mut self, id: ClientId, now: Nanos) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        client.state = State::Evicted;
        if let Some(account) = self.accounts.get_mut(&client.account) {
            account.strike(now);
        }
        self.orders.push(Order::Evict(id));
    }

    fn slice(&self) -> Nanos {
        self.sharing.slice.as_nanos().try_into().unwrap_or(Nanos::MAX)
    }

    fn due_next(&self, leases: usize, now: Nanos) -> Option<Nanos> {
        let mut due: Option<Nanos> = None;
        let mut at = |when: Nanos| due = Some(due.map_or(when, |due| due.min(when)).max(now));
        let contended = self.is_contended(now);
        for (_, account, hold) in self.holders() {
            match hold.recalled {
                Some(_) => at(hold.overdue_at(account.submission_limit())),
                None => {
                    at(look_again(account, &hold, now));
                    if contended && let Some(limit) = &account.limit {
                        at(now.saturating_add(limit.left_beside(hold.uncharged(now)).max(100_000)));
                    }
                    if contended && self.holders().count() >= leases {
                        let (run, slice) = (hold.since + MIN_RUN, hold.since.saturating_add(self.slice()));
                        at(if run > now {
                            run
                        } else if slice > now {
                            slice
                        } else {
                            now + MIN_RUN
                        });
                    }
                }
            }
        }
        for (_, account, _) in self.waiting() {
            if let Some(when) = account.eligible_at(now)
                && when > now
            {
                at(when);
            }
        }
        due
    }
}

#[cfg(test)]
#[path = "arbiter_tests.rs"]
mod tests;
