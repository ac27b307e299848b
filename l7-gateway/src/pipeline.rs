//! The ten stages in order: the whole product on one screen. Not for what a stage does: that is
//! `stages`. Called by `connection` once per request; nothing else knows the order.
//!
//! Invariant: the response side of every stage whose request side ran is run, last first, on
//! services' answers and on our own; stage 10 always runs.

use std::rc::Rc;
use std::sync::Arc;

use crate::access_log::Stats;
use crate::attached::Forms;
use common::observe::Observer;

use crate::exchange::{Answered, Exchange, Received, ResponseHead, Stage, Transformed};
use crate::external::Externals;
use crate::halt::Halt;
use crate::hops::Internal;
use crate::snapshot::Snapshot;
use crate::stages::authn::Authn;
use crate::stages::authz::Authz;
use crate::stages::dispatch::Dispatch;
use crate::stages::emit::{Emit, Emitted};
use crate::stages::normalise::Normalise;
use crate::stages::rate_limit::{Limiter, RateLimit};
use crate::stages::request_transform::RequestTransform;
use crate::stages::response_transform::ResponseTransform;
use crate::stages::route::Route;
use crate::trace::Trace;
use crate::transform::Changes;

/// One stage. `In` and `Out` make a wrong order fail to compile:
///
/// ```
/// # use l7_gateway::{exchange::{Exchange, Granted, Normalised}, halt::Halt, pipeline::{Filter, Pipeline}};
/// async fn forward(p: &Pipeline, x: &mut Exchange, rq: Normalised) -> Result<Granted, Halt> {
///     let rq = p.authn.run(x, rq).await?;
///     p.authz.run(x, rq).await
/// }
/// ```
///
/// Without its third stage the same lines are refused:
///
/// ```compile_fail,E0308
/// # use l7_gateway::{exchange::{Exchange, Granted, Normalised}, halt::Halt, pipeline::{Filter, Pipeline}};
/// async fn forward(p: &Pipeline, x: &mut Exchange, rq: Normalised) -> Result<Granted, Halt> {
///     p.authz.run(x, rq).await
/// }
/// ```
pub trait Filter {
    /// Its position.
    const STAGE: Stage;
    /// What the stage before it made.
    type In;
    /// What the stage after it takes.
    type Out;
    /// What it decided.
    type Plan;

    /// Pure: facts in, plan out; no clock, no I/O. `explain` passes a recording trace, the data
    /// path a silent one.
    fn plan(&self, x: &Exchange, input: &Self::In, trace: &mut impl Trace) -> Self::Plan;

    /// Request side: carries the plan out; what may wait waits here. Dropping the future abandons
    /// the request.
    fn request(
        &self,
        x: &mut Exchange,
        input: Self::In,
    ) -> impl Future<Output = Result<Self::Out, Halt>>;

    /// Response side: runs, last first, for every stage whose request side ran, on services'
    /// answers and on our own.
    fn response(&self, _x: &Exchange, _head: &mut ResponseHead) {}

    /// The request side with its only instrumentation: that it ran, how long, and where a halt
    /// came from.
    fn run(
        &self,
        x: &mut Exchange,
        input: Self::In,
    ) -> impl Future<Output = Result<Self::Out, Halt>> {
        async move {
            x.begin(Self::STAGE);
            let outcome = self.request(x, input).await;
            if outcome.is_err() {
                x.progress.halt(Self::STAGE);
            }
            outcome
        }
    }
}

/// Stages 2 to 10 of one worker, built from one snapshot.
#[derive(Debug)]
pub struct Pipeline {
    /// Stage 2.
    pub normalise: Normalise,
    /// Stage 3.
    pub authn: Authn,
    /// Stage 4.
    pub authz: Authz,
    /// Stage 5.
    pub rate_limit: RateLimit,
    /// Stage 6.
    pub route: Route,
    /// Stage 7.
    pub request_transform: RequestTransform,
    /// Stage 8.
    pub dispatch: Rc<Dispatch>,
    /// Stage 9.
    pub response_transform: ResponseTransform,
    /// Stage 10.
    pub emit: Emit,
    /// What clients are not told of services.
    pub internal: Rc<Internal>,
    limiter: Rc<Limiter>,
}

impl Pipeline {
    /// For one worker; must be called inside its runtime.
    ///
    /// What `before` has of connections is kept as far as it leads to the same places.
    pub fn build(
        snapshot: &Arc<Snapshot>,
        stats: &Rc<Stats>,
        observer: &Observer,
        before: Option<&Self>,
    ) -> Self {
        let (changes, forms) = (Changes::new(&snapshot.group), Forms::new(&snapshot.group));
        let internal = Rc::new(Internal::new(&snapshot.group.internal_headers));
        let known = before.map(|before| &before.limiter);
        let known = known.filter(|limiter| limiter.is_for(&snapshot.limits)).cloned();
        let limiter = known.unwrap_or_else(|| Limiter::new(Arc::clone(&snapshot.limits)));
        Self {
            normalise: Normalise::new(snapshot, Rc::clone(&limiter), stats),
            authn: Authn::new(Arc::clone(&snapshot.vouchers)),
            authz: Authz::new(snapshot, observer),
            rate_limit: RateLimit::new(Rc::clone(&limiter)),
            route: Route::new(snapshot, &observer.metrics),
            request_transform: RequestTransform::new(
                snapshot,
                (changes.as_ref(), forms.as_ref()),
                Externals::new(
                    snapshot,
                    observer,
                    before.and_then(|before| before.request_transform.outside()),
                ),
            ),
            dispatch: Dispatch::new(
                snapshot,
                observer,
                changes.clone(),
                before.map(|before| &*before.dispatch),
            ),
            response_transform: ResponseTransform::new(snapshot, (changes, forms), &internal),
            emit: Emit::new(&internal),
            internal,
            limiter,
        }
    }

    /// One request from its head to the answer that the engine will send. Dropping the future
    /// (the client has gone) still writes the access record.
    pub async fn serve(&self, mut x: Box<Exchange>, rx: Received) -> Emitted {
        let answer = match self.forward(&mut x, rx).await {
            Ok(answer) => answer,
            Err(halt) => Answered::ours(&x, halt), // a halt is an answer of ours
        };
        let answer = self.respond(&mut x, answer).await; // response sides of what ran, then 9
        self.emit.finish(x, answer) // 10: always runs, always logs
    }

    async fn forward(&self, x: &mut Exchange, rx: Received) -> Result<Answered, Halt> {
        let rq = self.normalise.run(x, rx).await?; //          2  Received   -> Normalised   (1 happened in server.rs)
        let rq = self.authn.run(x, rq).await?; //              3  Normalised -> Identified
        let rq = self.authz.run(x, rq).await?; //              4  Identified -> Granted
        let rq = self.rate_limit.run(x, rq).await?; //         5  Granted    -> Admitted
        let rq = self.route.run(x, rq).await?; //              6  Admitted   -> Routed
        let rq = self.request_transform.run(x, rq).await?; //  7  Routed     -> Prepared
        // Boxed: its future is most of the size, and each caller would move it into its own.
        Box::pin(self.dispatch.run(x, rq)).await //            8  Prepared   -> Answered
    }

    /// The response sides of what ran, then stage 9; `explain` asks it too.
    pub(crate) async fn respond(&self, x: &mut Exchange, mut answer: Answered) -> Transformed {
        let head = &mut answer.head;
        undo(&*self.dispatch, x, head);
        undo(&self.request_transform, x, head);
        undo(&self.route, x, head);
        undo(&self.rate_limit, x, head);
        undo(&self.authz, x, head);
        undo(&self.authn, x, head);
        undo(&self.normalise, x, head);
        match self.response_transform.run(x, answer).await {
            Ok(done) => done,
            Err(halt) => Transformed(Answered::ours(x, halt)),
        }
    }
}

/// The response side of a stage, if its request side ran.
fn undo<F: Filter>(stage: &F, x: &Exchange, head: &mut ResponseHead) {
    if x.progress.ran(F::STAGE) {
        stage.response(x, head);
    }
}
