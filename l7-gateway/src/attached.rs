//! Which descriptions a request is held against, and how its answer is compressed, by the places where the file
//! names that: listener, consumer, route and service (spec G2). Not for doing it: stages 7 and 9 do.
//!
//! Invariant: descriptions add up; of what is said of compressing the most special place alone counts.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use topology::answers::{Attached, Compress, Word};
use topology::contract::Contract as Model;
use topology::gateway::{Group, RouteTo};

use crate::contract::{Contract, ContractError};
use crate::exchange::{Identity, RouteId};

/// Descriptions of requests, read; for all workers.
#[derive(Debug)]
pub struct Contracts {
    routes: Vec<Option<Held>>,
    consumers: HashMap<Box<str>, Held>,
    services: Vec<Option<Held>>,
}

/// A description, and where it is named.
type Held = (Attached, Arc<Contract>);

impl Contracts {
    /// Reads them: blocking. One that several places name is read once, one that `before` has and is the same is kept.
    ///
    /// # Errors
    /// With the place of one that cannot be used.
    pub fn new(group: &Group, before: Option<&Self>) -> Result<Self, ContractError> {
        let before: Vec<Option<Arc<Contract>>> = before.map_or(Vec::new(), |before| {
            let services = before.routes.iter().chain(&before.services).flatten();
            let all = services.chain(before.consumers.values());
            all.map(|(_, contract)| Some(Arc::clone(contract))).collect()
        });
        let mut known: HashMap<_, Arc<Contract>> = HashMap::new();
        let mut read = |model: &Model| -> Result<Held, ContractError> {
            let key = (model.file.clone(), model.prefix.clone(), model.most);
            let contract = match known.get(&key) {
                Some(known) => Arc::clone(known),
                None => Arc::clone(known.entry(key).or_insert(Contract::new(model, &before)?)),
            };
            Ok((model.by, contract))
        };
        let routes = group.routes.iter().map(|route| route.contract.as_ref());
        let routes =
            routes.map(|model| model.map(&mut read).transpose()).collect::<Result<_, _>>()?;
        let services = group.upstreams.iter().map(|upstream| upstream.contract.as_ref());
        let services =
            services.map(|model| model.map(&mut read).transpose()).collect::<Result<_, _>>()?;
        let mut consumers = HashMap::new();
        for consumer in &group.consumers {
            if let Some(model) = &consumer.contract {
                consumers.insert(consumer.name.as_str().into(), read(model)?);
            }
        }
        Ok(Self { routes, consumers, services })
    }

    /// What a request is held against as it comes, in this order: the listener's, the consumer's, the route's.
    pub fn on(&self, route: RouteId, caller: Option<&Identity>) -> impl Iterator<Item = &Held> {
        let route = self.routes.get(route.0).and_then(Option::as_ref);
        let consumer = of_consumer(&self.consumers, caller);
        let (first, last) = match route {
            Some((Attached::Listener, _)) => (route, None),
            route => (None, route),
        };
        first.into_iter().chain(consumer).chain(last)
    }

    /// What it is held against as its service would be sent it.
    pub fn of_service(&self, to: RouteTo) -> Option<&Held> {
        self.services.get(to.service()?.0)?.as_ref()
    }
}

/// What the file says of compressed answers, for one worker.
#[derive(Debug)]
pub struct Forms {
    listener: Word<Rc<Compress>>,
    consumers: HashMap<Box<str>, Word<Rc<Compress>>>,
    routes: Vec<Word<Rc<Compress>>>,
    services: Vec<Word<Rc<Compress>>>,
}

impl Forms {
    /// `None`: it says nothing.
    pub fn new(group: &Group) -> Option<Rc<Self>> {
        let own = |word: &Word<Compress>| word.map(|rules| Rc::new(rules.clone()));
        let consumers = group.consumers.iter().filter(|consumer| !consumer.compress.is_silent());
        let consumers = consumers.map(|one| (one.name.as_str().into(), own(&one.compress)));
        let forms = Self {
            listener: own(&group.compress),
            consumers: consumers.collect(),
            routes: group.routes.iter().map(|route| own(&route.compress)).collect(),
            services: group.upstreams.iter().map(|upstream| own(&upstream.compress)).collect(),
        };
        let mut all = forms.routes.iter().chain(&forms.services).chain(forms.consumers.values());
        let any = forms.listener.rules().is_some() || all.any(|word| word.rules().is_some());
        any.then(|| Rc::new(forms))
    }

    /// What counts for an exchange, and where that stands.
    pub fn on(
        &self,
        route: RouteId,
        to: RouteTo,
        caller: Option<&Identity>,
    ) -> Option<(Attached, &Rc<Compress>)> {
        let service = to.service().and_then(|id| self.services.get(id.0));
        let places = [
            (Attached::Consumer, of_consumer(&self.consumers, caller)),
            (Attached::Route, self.routes.get(route.0)),
            (Attached::Service, service),
            (Attached::Listener, Some(&self.listener)),
        ];
        let said = places.into_iter().find_map(|(place, word)| {
            word.filter(|word| !word.is_silent()).map(|word| (place, word))
        });
        said.and_then(|(place, word)| Some((place, word.rules()?)))
    }

    /// What counts for the answer to a request that ended before that was looked for.
    pub fn early(&self, route: RouteId) -> Option<(Attached, &Rc<Compress>)> {
        let word = self.routes.get(route.0).filter(|word| !word.is_silent());
        let word = word.map(|word| (Attached::Route, word));
        let (place, word) = word.unwrap_or((Attached::Listener, &self.listener));
        Some((place, word.rules()?))
    }
}

/// What the file says there of whoever calls, if it names that consumer.
pub fn of_consumer<'a, T>(
    all: &'a HashMap<Box<str>, T>,
    caller: Option<&Identity>,
) -> Option<&'a T> {
    // Few files name any.
    let name = caller.filter(|_| !all.is_empty()).and_then(Identity::consumer)?;
    all.get(name)
}
