//! Merge checks: whether deltas go together, answered at once.

use super::{BoundMerge, NewMerge};
use crate::app::{App, Caller, Refusal};
use crate::db;
use crate::delta_store::DeltaStoreError;
use crate::domain::code::Code;
use crate::domain::concept::Handle;
use crate::domain::delta::DeltaConcept;
use crate::domain::delta_use::DeltaUse;
use crate::domain::id::{ConceptId, DeltaId};
use crate::domain::invalid::FieldError;
use crate::domain::merge::verdict::WayToCompose;
use crate::domain::merge::{MergeRecipe, MergeReport, PairReport, Verdict};
use crate::domain::training::MAX_CONCEPTS;

/// How deltas go together.
#[derive(Clone, Debug)]
pub struct MergeCheck {
    pub deltas: Vec<DeltaUse>,
    /// How they would be merged, with every default filled in.
    pub recipe: MergeRecipe,
    pub report: MergeReport,
    /// How to get all their concepts into one image.
    pub recommended: WayToCompose,
    /// Every two deltas, in the order of the report.
    pub pairs: Vec<CheckedPair>,
}

/// How two deltas go together.
#[derive(Clone, Debug)]
pub struct CheckedPair {
    pub deltas: [DeltaId; 2],
    pub report: PairReport,
    /// How to get their concepts into one image; `None` where the concepts are not known.
    pub recommended: Option<WayToCompose>,
    /// The concepts to train jointly instead; `None` if the two go together, or if that is too much for one training.
    pub train_jointly: Option<Vec<(ConceptId, Handle)>>,
}

impl App {
    /// Checks how well deltas go together, without a job and without a device.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] if a name does not resolve or the deltas cannot be merged at all; [`Refusal::Conflict`] if
    /// the answer needs something that no worker has computed yet; [`Refusal::Overloaded`].
    pub async fn check_merge(&self, caller: &Caller, new: NewMerge) -> Result<MergeCheck, Refusal> {
        let mut db = self.db.acquire().await?;
        let BoundMerge { binding, recipe } = self.bind_merge(&mut db, caller, new).await?;
        drop(db);
        let permit = self.computation().await?;
        let report = match self.deltas.check(&binding.deltas, &recipe).await {
            Ok(report) => report,
            Err(DeltaStoreError::PackMissing(delta)) => {
                return Err(self.pack_missing(caller, delta).await?);
            }
            Err(error) => return Err(refusal(error)),
        };
        drop(permit);
        let words: Vec<_> = binding.concepts.iter().map(|concept| &concept.words).collect();
        let recommended = WayToCompose::recommended(report.verdict(), &words);
        let pairs = report.pairs.iter();
        let pairs = pairs.map(|pair| CheckedPair::new(pair, &binding.deltas, &binding.concepts));
        Ok(MergeCheck {
            pairs: pairs.collect(),
            deltas: binding.deltas,
            recipe,
            recommended,
            report,
        })
    }

    /// Says why a delta has no merge pack, as far as that is known.
    async fn pack_missing(&self, caller: &Caller, delta_id: DeltaId) -> Result<Refusal, Refusal> {
        let found = db::delta::find(&self.db, caller.project_id(), &[delta_id]).await?;
        let delta = found.into_iter().next();
        let detail = match delta.and_then(|delta| delta.pack_error) {
            Some(reason) => format!(
                "the merge pack of `{delta_id}` could not be made ({reason}): a worker for its base model tries again at \
                 start, and so does POST /v1/merges"
            ),
            None => format!(
                "`{delta_id}` has no merge pack yet: a worker for its base model builds it at start, so start one, or try \
                 again in a moment"
            ),
        };
        Ok(Refusal::Conflict(FieldError::new("/concepts", Code::PackMissing, detail)))
    }
}

impl CheckedPair {
    fn new(report: &PairReport, deltas: &[DeltaUse], concepts: &[DeltaConcept]) -> Self {
        let (one, other) = report.pair;
        let deltas = [deltas[one].delta_id, deltas[other].delta_id];
        let taught: Vec<&DeltaConcept> =
            concepts.iter().filter(|concept| deltas.contains(&concept.delta_id)).collect();
        let train_jointly = match report.verdict() {
            Verdict::Ok => None,
            Verdict::Risky | Verdict::Conflict => joint_training(&taught),
        };
        let words: Vec<_> = taught.iter().map(|concept| &concept.words).collect();
        let recommended = Some(WayToCompose::recommended(report.verdict(), &words));
        Self { deltas, report: report.clone(), recommended, train_jointly }
    }
}

/// What the two deltas teach, if one training can teach it.
fn joint_training(taught: &[&DeltaConcept]) -> Option<Vec<(ConceptId, Handle)>> {
    let concepts = taught.iter().map(|concept| (concept.concept_id, concept.handle.clone()));
    (taught.len() <= MAX_CONCEPTS).then(|| concepts.collect())
}

fn refusal(error: DeltaStoreError) -> Refusal {
    match error {
        DeltaStoreError::CaptionsNotEncoded => Refusal::Conflict(FieldError::new(
            "/captions",
            Code::CaptionsNotEncoded,
            "these captions have not been encoded yet: merge once over them with POST /v1/merges; those of the base model's \
             class images are encoded by a worker at start, if there are enough of them and they differ enough",
        )),
        DeltaStoreError::Refused(reason) => {
            FieldError::new("/concepts", Code::MergeRefused, reason).into()
        }
        error @ (DeltaStoreError::Storage(_)
        | DeltaStoreError::Damaged { .. }
        | DeltaStoreError::PackMissing(_)
        | DeltaStoreError::Engine(_)
        | DeltaStoreError::Panicked) => error.into(),
    }
}
