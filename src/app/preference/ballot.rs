//! What somebody with a link to a study sees, and their votes.

use crate::app::download::Downloadable;
use crate::app::{App, Refusal};
use crate::db;
use crate::db::preference::StudyRow;
use crate::domain::code::Code;
use crate::domain::id::ImageId;
use crate::domain::image::Image;
use crate::domain::invalid::FieldError;
use crate::domain::preference::{Criterion, StudyDefinition, left_of};

/// What somebody with a link sees next.
#[derive(Clone, Debug)]
pub struct Ballot {
    pub token: String,
    pub photos: Vec<ImageId>,
    /// Pairs on which the link has voted, and all.
    pub voted: usize,
    pub total: usize,
    /// `None` after the last one.
    pub next: Option<BallotPair>,
}

/// Two images to choose between.
#[derive(Clone, Debug)]
pub struct BallotPair {
    pub pair: usize,
    pub prompt: String,
    pub left: ImageId,
    pub right: ImageId,
}

/// Which of the two images somebody has chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Left,
    Right,
}

impl App {
    /// The next pair for whoever has this link.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] if there is no such link.
    pub async fn ballot(&self, token: &str) -> Result<Ballot, Refusal> {
        let study = self.study_of(token).await?;
        let voted = db::preference::voted_pairs(&self.db, token).await?;
        let pairs = study.definition.pairs;
        let open = (0..pairs.len()).find(|pair| !voted.contains(&(*pair as i32)));
        let next = open.map(|pair| {
            let (left, images) = (left_of(token, pair), pairs[pair].images);
            BallotPair {
                pair,
                prompt: pairs[pair].prompt.clone(),
                left: images[left.index()],
                right: images[left.other().index()],
            }
        });
        Ok(Ballot {
            token: token.to_owned(),
            photos: study.definition.photos,
            voted: voted.len(),
            total: pairs.len(),
            next,
        })
    }

    /// An image that the pages of this link show, and its PNG. Whoever has the link needs no key for it.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] if there is no such link, or its study does not show the image.
    pub async fn ballot_image(
        &self,
        token: &str,
        id: ImageId,
    ) -> Result<(Image, Downloadable), Refusal> {
        let missing = || Refusal::not_found("image", id);
        let StudyDefinition { photos, pairs, .. } = self.study_of(token).await?.definition;
        let mut shown = pairs.iter().flat_map(|pair| pair.images).chain(photos);
        if !shown.any(|image| image == id) {
            return Err(missing());
        }
        let project_id = db::preference::project_of_link(&self.db, token).await?;
        let project_id = project_id.ok_or_else(missing)?;
        let image = db::image::find(&self.db, project_id, id).await?.ok_or_else(missing)?;
        let file = self.image_file(&image);
        Ok((image, file))
    }

    /// Records what somebody has chosen; the first vote of a link on a pair counts.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] if there is no such link, [`Refusal::Invalid`] for a pair that the study does not have.
    pub async fn vote(
        &self,
        token: &str,
        pair: usize,
        votes: [(Criterion, Side); 2],
    ) -> Result<(), Refusal> {
        let study = self.study_of(token).await?;
        let count = study.definition.pairs.len();
        if pair >= count {
            let detail = format!("the study has pairs 0 to {}", count.saturating_sub(1));
            return Err(FieldError::new("/pair", Code::OutOfRange, detail).into());
        }
        let left = left_of(token, pair);
        let mut tx = self.db.begin().await?;
        for (criterion, side) in votes {
            let choice = match side {
                Side::Left => left,
                Side::Right => left.other(),
            };
            db::preference::vote(&mut *tx, token, pair as i32, criterion, choice).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    async fn study_of(&self, token: &str) -> Result<StudyRow, Refusal> {
        let row = match token.contains('\0') {
            true => None, // Postgres takes no U+0000
            false => db::preference::find_by_token(&self.db, token).await?,
        };
        row.ok_or_else(|| Refusal::not_found("link", token))
    }
}
