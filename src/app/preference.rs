//! Preference studies: people choose between images of two subjects.

mod ballot;

use std::collections::HashMap;

use super::{App, Caller, Refusal};
use crate::db;
use crate::db::preference::StudyRow;
use crate::domain::code::Code;
use crate::domain::evaluation::EvaluationTask;
use crate::domain::evaluation::report::Estimate;
use crate::domain::id::{EvaluationId, ImageId, SampleId, StudyId};
use crate::domain::image::ImageSource;
use crate::domain::invalid::{Checks, FieldError};
use crate::domain::job::{Job, JobStatus};
use crate::domain::labelled::Labelled;
use crate::domain::page::{Page, PageOf};
use crate::domain::preference::{
    Choice, Criterion, DEFAULT_PAIRS, LINKS, PAIRS, StudyDefinition, StudyPair, StudySide,
};
use crate::domain::record::{ExternalId, Labels, Record};
use crate::scoring::wilson;

pub use self::ballot::{Ballot, BallotPair, Side};

/// Photos that a page shows.
const PHOTOS: usize = 6;

/// A study to start.
#[derive(Clone, Debug)]
pub struct NewStudy {
    pub sides: [NewSide; 2],
    pub pairs: Option<usize>,
    pub links: Option<usize>,
    pub labels: Labels,
}

/// A subject of an evaluation.
#[derive(Clone, Debug)]
pub struct NewSide {
    pub evaluation: EvaluationId,
    /// May be left out if there is only one besides the base model.
    pub subject: Option<String>,
}

/// A study with its links and results.
#[derive(Clone, Debug)]
pub struct Study {
    pub study_id: StudyId,
    pub definition: StudyDefinition,
    pub created_at: chrono::DateTime<chrono::Utc>,
    pub record: Record,
    pub tokens: Vec<String>,
    pub results: Vec<StudyResult>,
}

/// How often the first side was preferred.
#[derive(Clone, Debug)]
pub struct StudyResult {
    pub criterion: Criterion,
    /// Votes for the first and the second side.
    pub votes: [i64; 2],
    /// The fraction of votes for the first side.
    pub share: Estimate,
}

impl App {
    /// Starts a study of two subjects on the prompts that their evaluations have in common.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] if an evaluation has not succeeded, a subject is not in it, or they have no prompt in common.
    pub async fn start_study(&self, caller: &Caller, new: NewStudy) -> Result<Study, Refusal> {
        let pairs = new.pairs.unwrap_or(DEFAULT_PAIRS);
        let links = new.links.unwrap_or(1);
        let mut checks = Checks::default();
        checks.in_range(pairs, PAIRS, "/pairs");
        checks.in_range(links, LINKS, "/links");
        checks.finish()?;
        let first = self.side(caller, &new.sides[0], "/first").await?;
        let second = self.side(caller, &new.sides[1], "/second").await?;
        if first.side == second.side {
            let detail = "this is the first subject again: name two that differ";
            return Err(FieldError::new("/second", Code::InvalidValue, detail).into());
        }
        let pairs = common_pairs(&first, &second, pairs)?;
        let photos = first.job.task.concepts.iter().flat_map(|concept| &concept.images);
        let definition = StudyDefinition {
            photos: photos.take(PHOTOS).map(|image| image.image_id).collect(),
            sides: [first.side, second.side],
            pairs,
        };
        let study_id = StudyId::generate();
        let mut tx = self.db.begin().await?;
        self.claim_key(&mut tx, study_id).await?;
        let (project_id, labels) = (caller.project_id(), &new.labels);
        if let Err(error) =
            db::preference::create(&mut *tx, project_id, study_id, &definition, labels).await
        {
            let like = Labelled::Study(study_id);
            return Err(self.refuse_taken_id(caller, like, labels, error).await);
        }
        db::preference::add_links(&mut *tx, study_id, &new_tokens(links)).await?;
        tx.commit().await?;
        self.study(caller, study_id).await
    }

    /// Returns a study with its results so far.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] if there is none of this id.
    pub async fn study(&self, caller: &Caller, id: StudyId) -> Result<Study, Refusal> {
        let row = db::preference::find(&self.db, caller.project_id(), id).await?;
        self.with_results(row.ok_or_else(|| Refusal::not_found("preference study", id))?).await
    }

    /// Lists studies: all, or the one with this external id.
    pub async fn studies(
        &self,
        caller: &Caller,
        external_id: Option<&ExternalId>,
        page: Page,
    ) -> Result<PageOf<Study>, Refusal> {
        let (project_id, more) = (caller.project_id(), page.with_one_more());
        let found = db::preference::list(&self.db, project_id, external_id, more).await?;
        let PageOf { items, has_more } = page.cut(found);
        let mut studies = Vec::new();
        for row in items {
            studies.push(self.with_results(row).await?);
        }
        Ok(PageOf { items: studies, has_more })
    }

    /// Makes further links to a study.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] if there is none of this id.
    pub async fn add_study_links(
        &self,
        caller: &Caller,
        id: StudyId,
        count: usize,
    ) -> Result<Study, Refusal> {
        let mut checks = Checks::default();
        checks.in_range(count, LINKS, "/links");
        checks.finish()?;
        self.study(caller, id).await?;
        db::preference::add_links(&self.db, id, &new_tokens(count)).await?;
        self.study(caller, id).await
    }

    async fn with_results(&self, row: StudyRow) -> Result<Study, Refusal> {
        let tokens = db::preference::links_of(&self.db, row.study_id).await?;
        let counted = db::preference::count_votes(&self.db, row.study_id).await?;
        let of = |criterion: Criterion, choice: Choice| {
            let found = counted.iter().find(|(a, b, _)| (*a, *b) == (criterion, choice));
            found.map_or(0, |(_, _, count)| *count)
        };
        let result = |criterion: Criterion| {
            let votes = [of(criterion, Choice::First), of(criterion, Choice::Second)];
            StudyResult { criterion, votes, share: share(votes) }
        };
        Ok(Study {
            study_id: row.study_id,
            definition: row.definition,
            created_at: row.created_at,
            record: row.record,
            tokens,
            results: Criterion::ALL.map(result).to_vec(),
        })
    }

    /// Finds a subject and its images.
    async fn side(
        &self,
        caller: &Caller,
        new: &NewSide,
        pointer: &str,
    ) -> Result<FoundSide, Refusal> {
        let found = self.find_job::<EvaluationTask>(caller, new.evaluation).await;
        let job = match found {
            Ok(job) if job.status() == JobStatus::Succeeded => job,
            Ok(_) | Err(Refusal::NotFound { .. }) => {
                let detail = format!("no evaluation `{}` has succeeded", new.evaluation);
                let pointer = format!("{pointer}/evaluation");
                return Err(FieldError::new(pointer, Code::UnknownEvaluation, detail).into());
            }
            Err(other) => return Err(other),
        };
        let subject = choose_subject(&job.task, new.subject.as_deref(), pointer)?;
        let samples = db::evaluation::samples_of(&self.db, job.job_id).await?;
        let its: HashMap<SampleId, usize> = samples
            .iter()
            .filter(|sample| sample.subject == subject)
            .map(|sample| (sample.sample_id, sample.prompt))
            .collect();
        let ids: Vec<SampleId> = its.keys().copied().collect();
        let mut images = vec![Vec::new(); job.task.prompts.len()];
        for image in db::image::of_samples(&self.db, &ids).await? {
            if let ImageSource::Sample { sample_id, index } = image.source
                && let Some(prompt) = its.get(&sample_id)
            {
                images[*prompt].push((index, image.image_id));
            }
        }
        for of_prompt in &mut images {
            of_prompt.sort_unstable_by_key(|(index, _)| *index);
        }
        let side = StudySide {
            evaluation: new.evaluation,
            subject: job.task.subjects[subject].name.clone(),
        };
        Ok(FoundSide { side, job, images })
    }
}

struct FoundSide {
    side: StudySide,
    job: Job<EvaluationTask>,
    /// Prompt by prompt, with their indices.
    images: Vec<Vec<(i32, ImageId)>>,
}

fn choose_subject(
    task: &EvaluationTask,
    name: Option<&str>,
    pointer: &str,
) -> Result<usize, FieldError> {
    let pointer = format!("{pointer}/subject");
    let names = || {
        let names = task.subjects.iter().map(|subject| format!("`{}`", subject.name));
        names.collect::<Vec<_>>().join(", ")
    };
    match name {
        Some(name) => {
            task.subjects.iter().position(|subject| subject.name == name).ok_or_else(|| {
                let detail = format!("the evaluation has the subjects {}", names());
                FieldError::new(pointer, Code::InvalidValue, detail)
            })
        }
        None => {
            let others: Vec<usize> =
                (0..task.subjects.len()).filter(|index| !task.subjects[*index].is_base()).collect();
            match (others.as_slice(), task.subjects.len()) {
                ([only], _) => Ok(*only),
                ([], 1) => Ok(0),
                _ => {
                    let detail = format!("the evaluation has the subjects {}: name one", names());
                    Err(FieldError::new(pointer, Code::MissingField, detail))
                }
            }
        }
    }
}

/// Pairs of the prompts that both have: the first images of all of them, then the second, and so on.
fn common_pairs(
    first: &FoundSide,
    second: &FoundSide,
    count: usize,
) -> Result<Vec<StudyPair>, FieldError> {
    let mut pairs = Vec::new();
    let mut of_prompts = Vec::new();
    for (place, prompt) in first.job.task.prompts.iter().enumerate() {
        let others = &second.job.task.prompts;
        let same =
            others.iter().position(|other| prompt.names_concept && other.plain == prompt.plain);
        if let Some(other) = same {
            of_prompts.push((&prompt.plain, &first.images[place], &second.images[other]));
        }
    }
    for round in 0.. {
        let before = pairs.len();
        for (prompt, a, b) in &of_prompts {
            if let (Some((_, a)), Some((_, b))) = (a.get(round), b.get(round)) {
                pairs.push(StudyPair { prompt: (*prompt).clone(), images: [*a, *b] });
            }
        }
        if pairs.len() == before || pairs.len() >= count {
            break;
        }
    }
    pairs.truncate(count);
    if pairs.is_empty() {
        let detail = "the two evaluations have no prompt in common that names a concept";
        return Err(FieldError::new("/second/evaluation", Code::InvalidValue, detail));
    }
    Ok(pairs)
}

fn share([first, second]: [i64; 2]) -> Estimate {
    let count = |votes: i64| usize::try_from(votes).unwrap_or(0);
    let n = count(first) + count(second);
    match wilson(count(first), n) {
        Some((mean, interval)) => {
            Estimate { mean: Some(mean), interval: Some(interval), n, reason: None }
        }
        None => Estimate::none("there are no votes"),
    }
}

/// Texts that nobody guesses.
fn new_tokens(count: usize) -> Vec<String> {
    (0..count).map(|_| uuid::Uuid::new_v4().simple().to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_without_votes_is_null_and_never_beyond_0_and_1() {
        assert_eq!((share([0, 0]).mean, share([0, 0]).interval), (None, None));
        for votes in [[0, 50], [10, 0], [1, 0]] {
            let [low, high] = share(votes).interval.unwrap();

            assert!(low >= 0.0 && high <= 1.0 && low < high, "{votes:?}");
        }
    }
}
