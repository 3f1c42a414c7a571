//! The codes by which programs tell one error from another: one closed list for the whole API.
//!
//! A code is part of the published interface. It is never renamed and never removed, because stored failures of jobs
//! carry it as well.

use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

macro_rules! codes {
    ($($(#[doc = $meaning:literal])+ $name:ident = $text:literal,)*) => {
        /// What kind of error this is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
        pub enum Code {
            $($(#[doc = $meaning])+ #[serde(rename = $text)] $name,)*
        }

        impl Code {
            /// Every code, in the order of the documentation.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The code as it is published and stored.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// What the code means and what to do about it, in one line.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$name => concat!($($meaning),+).trim_ascii(),)* }
            }
        }
    };
}

codes! {
    // The request as such.
    /// Several fields are wrong for different reasons: read `errors`.
    ValidationFailed = "validation_failed",
    /// The body cannot be parsed: send well-formed JSON or a well-formed form.
    MalformedBody = "malformed_body",
    /// The content type is not accepted here: send the one that the operation documents.
    UnsupportedMediaType = "unsupported_media_type",
    /// The body is larger than the operation allows: send less at once.
    BodyTooLarge = "body_too_large",
    /// No operation has this path: check the path and the form of the ids in it.
    NoSuchPath = "no_such_path",
    /// The path exists, but not with this method: use one of the documented methods.
    MethodNotAllowed = "method_not_allowed",
    /// A header of the request cannot be read: see `detail` for its form.
    MalformedHeader = "malformed_header",
    /// The resource has another revision than those of `If-Match`: read it again, and repeat the request with its new `ETag`.
    PreconditionFailed = "precondition_failed",
    /// A request with the same `Idempotency-Key` is being served: send it again after `Retry-After` seconds to get its answer.
    IdempotencyInFlight = "idempotency_in_flight",
    /// The `Idempotency-Key` came with another request before: choose a new key for every new request.
    IdempotencyKeyReused = "idempotency_key_reused",
    /// The requested byte range lies beyond the end: ask for a range within the size.
    RangeNotSatisfiable = "range_not_satisfiable",
    /// The rest of the body did not come in time: send the request again, without pauses.
    RequestTimeout = "request_timeout",
    /// The thing named in the path does not exist: check its id.
    NotFound = "not_found",
    /// The cursor is not one that this list has returned: start again without `after`.
    InvalidCursor = "invalid_cursor",

    // Who sends the request.
    /// The request has no valid key: send one as `Authorization: Bearer`.
    Unauthenticated = "unauthenticated",
    /// The key has no scope for this operation, or the client token is good for another thing: use one that has.
    MissingScope = "missing_scope",
    /// Pages of this origin may not send this request: allow the origin, or send it from a server.
    OriginNotAllowed = "origin_not_allowed",
    /// The service is not known under the name in `Host`: use its own name, or allow this one.
    UnknownHost = "unknown_host",
    /// The key sends too many requests: send them again after `Retry-After` seconds.
    RateLimited = "rate_limited",
    /// The project has as much as its quota allows: delete something, wait for jobs to end, or ask for a larger quota.
    QuotaExceeded = "quota_exceeded",
    /// The service asks for no keys, so there are none: start it with `--auth keys`.
    KeysNotInUse = "keys_not_in_use",

    // A field of the request.
    /// The field does not exist: remove it or correct its name.
    UnknownField = "unknown_field",
    /// A required field is absent: add it.
    MissingField = "missing_field",
    /// The value has the wrong type or form: see `detail` for what is expected.
    InvalidValue = "invalid_value",
    /// The number or length lies outside its bounds: see `detail` for the bounds.
    OutOfRange = "out_of_range",
    /// The size is not a multiple of the base model's `size_multiple`: use the multiple in `detail`.
    NotAMultiple = "not_a_multiple",
    /// The field has no meaning together with the rest of the request: leave it out.
    NotApplicable = "not_applicable",
    /// Two fields exclude each other: leave one of them out.
    ConflictingFields = "conflicting_fields",
    /// The text has more tokens than the text encoder takes: shorten it.
    PromptTooLong = "prompt_too_long",

    // Concepts, deltas and images that a request names.
    /// No concept has this id, handle or modifier token: create one, or correct the name.
    UnknownConcept = "unknown_concept",
    /// The concept has no delta yet: train it and wait until the training has succeeded.
    ConceptNotTrained = "concept_not_trained",
    /// No delta has this id or digest: list the deltas that exist.
    UnknownDelta = "unknown_delta",
    /// No model of the OpenAI door has this name: list those that there are.
    UnknownModel = "unknown_model",
    /// No image has this id or digest: upload it, or correct the id.
    UnknownImage = "unknown_image",
    /// The delta does not contain the concept it is given for: choose another delta.
    DeltaOfAnotherConcept = "delta_of_another_concept",
    /// One concept, or one word, has two meanings in the request: name one delta for it.
    AmbiguousConcept = "ambiguous_concept",
    /// One delta is named with two strengths: give it one.
    AmbiguousStrength = "ambiguous_strength",
    /// More deltas are combined than are allowed: leave some out.
    TooManyDeltas = "too_many_deltas",
    /// A merge needs at least two different deltas: name more.
    TooFewDeltas = "too_few_deltas",
    /// The object belongs to another base model than the one served: train again, or ask the right service.
    BaseModelMismatch = "base_model_mismatch",
    /// The concept has fewer images than a training needs: add images.
    DatasetTooSmall = "dataset_too_small",
    /// Another concept has this handle: choose another.
    HandleTaken = "handle_taken",
    /// Another concept has this modifier token: choose another.
    ModifierTokenTaken = "modifier_token_taken",
    /// Another object of this kind has this external id: use the object that `detail` names, or choose another.
    ExternalIdTaken = "external_id_taken",
    /// No earlier delta of the concept is there to go back to: promote one that exists.
    NoEarlierDelta = "no_earlier_delta",

    // Deletions.
    /// Something depends on the concept: delete what `errors` names first, or all of it with `cascade=true`.
    ConceptInUse = "concept_in_use",
    /// The delta is the current one of a concept: promote another first, or go back to the one before with `cascade=true`.
    DeltaInUse = "delta_in_use",
    /// An evaluation that has not ended or a preference study shows the image: delete that first.
    ImageInUse = "image_in_use",
    /// What the job has made, or what it was made for, is still there: delete what `errors` names first, or use `cascade=true`.
    JobInUse = "job_in_use",
    /// The job has not ended: cancel it and wait until it has.
    JobNotEnded = "job_not_ended",
    /// Something that the request names was deleted in this moment: read what there is, and send it again without.
    DeletedMeanwhile = "deleted_meanwhile",

    // Uploaded files.
    /// The file is not a readable PNG, JPEG or WebP image: convert or re-export it.
    ImageUnreadable = "image_unreadable",
    /// The file is an image or a film of another format, such as HEIC or AVIF: convert it to PNG, JPEG or WebP.
    UnsupportedImage = "unsupported_image",
    /// The file or its dimensions exceed the limits: shrink the image.
    ImageTooLarge = "image_too_large",
    /// A side of the image is below the minimum: use a larger image.
    ImageTooSmall = "image_too_small",
    /// The image is a single colour or wholly transparent: send a photo of the subject.
    ImageFlat = "image_flat",
    /// The image has hardly any contrast: use a photo in which the subject is well lit.
    ImageFaint = "image_faint",
    /// The image is out of focus or much enlarged: use a sharp photo.
    ImageBlurred = "image_blurred",
    /// The image looks like noise: check that the file is the photo that you mean.
    ImageNoise = "image_noise",
    /// The image is much longer on one side than on the other: crop it around its subject.
    ImageNarrow = "image_narrow",
    /// The image is smaller than the model generates: use a larger one.
    ImageSmall = "image_small",
    /// The image is nearly the same as another photo of the concept: use photos that differ in view, place and light.
    ImageNearDuplicate = "image_near_duplicate",
    /// The ICC profile of the file does not fit its pixels or is damaged, and was left out: export the image as sRGB.
    ColorProfileIgnored = "color_profile_ignored",
    /// Photos have the same caption, which teaches the concept no more than a template does: describe what differs, or leave it out.
    CaptionsIdentical = "captions_identical",
    /// A caption or mask belongs to no file of the upload: name it as the photo is named, or send one for each photo in order.
    UnmatchedFile = "unmatched_file",
    /// The mask has another shape than its photo, or keeps nothing of it: paint white where the subject is, at the photo's size.
    MaskUnusable = "mask_unusable",
    /// The file of the upload has not arrived: send it with PUT to the upload's URL, then complete the upload.
    UploadIncomplete = "upload_incomplete",
    /// The file of the upload has another size or digest than was announced: send the announced one again, or announce this one.
    DigestMismatch = "digest_mismatch",
    /// The upload's URL has expired, or the upload is completed: announce a new one.
    UploadClosed = "upload_closed",
    /// The concept has this image already: nothing needs to be done.
    DuplicateImage = "duplicate_image",
    /// More images than a concept or an upload can have: send fewer.
    TooManyImages = "too_many_images",

    // Evaluations.
    /// No evaluation of this id has succeeded: start one, or wait until it has.
    UnknownEvaluation = "unknown_evaluation",

    // Webhooks.
    /// Webhooks are not sent to this URL: use https on port 443 or 8443, and a host with a public address.
    WebhookUrlRefused = "webhook_url_refused",
    /// The project has as many webhook endpoints as it may: delete one.
    TooManyWebhookEndpoints = "too_many_webhook_endpoints",
    /// Nothing is sent to the webhook endpoint while it is disabled: enable it with PATCH first.
    WebhookEndpointDisabled = "webhook_endpoint_disabled",

    // Image sets.
    /// The file is not a zip archive of images, or it has unsafe paths: see `detail` and pack the folder again.
    ImageSetUnreadable = "image_set_unreadable",
    /// The archive has more files, images or bytes than a set can have: split it.
    ImageSetTooLarge = "image_set_too_large",
    /// A caption or a line of `metadata.jsonl` cannot be read: correct the file and line that `detail` names.
    CaptionUnreadable = "caption_unreadable",
    /// No image set has this id or digest: list the sets that exist.
    UnknownImageSet = "unknown_image_set",
    /// The image set belongs to the base model that is served: it cannot be deleted.
    ImageSetInUse = "image_set_in_use",
    /// No caption of the set is similar enough to the prompt: lower `threshold`, or choose another set.
    NothingRetrieved = "nothing_retrieved",
    /// The service has no evaluator: start it with `--evaluator`.
    EvaluatorMissing = "evaluator_missing",
    /// The captions of the set are still being compared for the first time: send the request again after `Retry-After` seconds.
    ImageSetNotIndexed = "image_set_not_indexed",

    // Merges and compositions.
    /// The prompt does not name a concept that takes part, so it is not drawn: name it, or give it a region with a box.
    ConceptNotNamed = "concept_not_named",
    /// Merged, one of the concepts is likely to be plain or absent: take the composition that the detail names.
    MergeRisky = "merge_risky",
    /// The concepts contradict each other, or images of them merged may be noise: take the composition that the detail names.
    MergeConflict = "merge_conflict",
    /// The delta has no merge pack yet: start a worker for its base model and try again; `detail` says why if it failed.
    PackMissing = "pack_missing",
    /// These captions have not been encoded yet: run one merge over them first.
    CaptionsNotEncoded = "captions_not_encoded",
    /// The deltas cannot be merged with this recipe: see `detail`.
    MergeRefused = "merge_refused",

    // Warnings about requests that are accepted.
    /// A word of the prompt is the name of a concept that takes no part: write its modifier token, or list it in `concepts`.
    ConceptNotApplied = "concept_not_applied",
    /// A text in angle brackets is read as ordinary words: write a modifier token without blanks.
    UnknownToken = "unknown_token",
    /// The prompt has weights in the notation of other programs, which are read as ordinary text: leave them out.
    WeightsIgnored = "weights_ignored",
    /// The field changes nothing together with the rest of the request: leave it out, or change what the detail names.
    FieldIgnored = "field_ignored",
    /// The image is far from the size that the base model was trained on: see `detail` for a better one.
    SizeUnusual = "size_unusual",
    /// The start image is resized to what the base model draws well: give `width` and `height` for another size.
    InitImageResized = "init_image_resized",
    /// The value is far from those that give good results: see `detail` for the usual one.
    ValueUnusual = "value_unusual",
    /// The concept has few photos, so the result may repeat them: add more.
    FewPhotos = "few_photos",
    /// A text is given twice and adds nothing: leave one out.
    IdenticalTexts = "identical_texts",

    // The state of the service.
    /// The queue for this kind of job is full: send the request again after `Retry-After` seconds.
    QueueFull = "queue_full",
    /// The process has been asked to end: send the request to another one, or again after `Retry-After`.
    ShuttingDown = "shutting_down",
    /// Other requests have all the memory or all the cores for requests of this kind: send it again after `Retry-After` seconds.
    Overloaded = "overloaded",
    /// The database cannot be reached: send the request again after `Retry-After` seconds.
    DatabaseUnavailable = "database_unavailable",
    /// The object store cannot be reached: send the request again after `Retry-After` seconds.
    StorageUnavailable = "storage_unavailable",
    /// The object store has no room: send the request again after `Retry-After` seconds, when whoever runs the service has made some.
    StorageFull = "storage_full",
    /// The file of something that the catalog has is gone from the object store: restore it, or make it again.
    ObjectMissing = "object_missing",
    /// The service has a bug or an inconsistent catalog: report it with the `request_id`.
    InternalError = "internal_error",

    // Why a job failed.
    /// The engine refused the job's input: see `detail`, change the request and start a new job.
    InvalidInput = "invalid_input",
    /// The loss became infinite or undefined: use a smaller `learning_rate`.
    TrainingDiverged = "training_diverged",
    /// The image became infinite or undefined: use a smaller strength or `guidance_scale`.
    SampleDiverged = "sample_diverged",
    /// A concept's delta leaves the base model unchanged: train the concept again.
    ConceptWithoutEffect = "concept_without_effect",
    /// The work takes more memory than the worker's device has: ask for smaller images, or train with smaller batches.
    OutOfMemory = "out_of_memory",
    /// The engine failed on its own: look for the job's id in the server's log.
    EngineError = "engine_error",
    /// A sample of an evaluation did not succeed: see `detail`, and start a new evaluation.
    SampleFailed = "sample_failed",
    /// A stored object does not match its digest: restore it, or make it again.
    ObjectDamaged = "object_damaged",
    /// The worker cannot read the base model's class images: check its model folder.
    ClassImagesUnavailable = "class_images_unavailable",
    /// The worker that had the job stopped answering: it was killed, or needed more memory than there is.
    WorkerLost = "worker_lost",
    /// The job was not started or did not end by the deadline of its request: see `detail` for which, and give it more time.
    DeadlineExceeded = "deadline_exceeded",
    /// The worker was shut down in the middle of an attempt: nothing needs to be done, another worker takes the job.
    WorkerStopped = "worker_stopped",
    /// The job was stopped before it ended: start it again if it is still wanted.
    Stopped = "stopped",
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl PartialSchema for Code {
    fn schema() -> RefOr<Schema> {
        let lines = Self::ALL.iter().map(|code| format!("\n- `{code}`: {}", code.meaning()));
        let description = format!(
            "The kind of error, for programs. The list is closed: codes are never renamed or removed.\n{}",
            lines.collect::<String>()
        );
        ObjectBuilder::new()
            .schema_type(Type::String)
            .enum_values(Some(Self::ALL.iter().map(|code| code.as_str())))
            .description(Some(description))
            .into()
    }
}

impl ToSchema for Code {
    fn name() -> std::borrow::Cow<'static, str> {
        "Code".into()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_code_is_stored_as_it_is_published() {
        for code in Code::ALL {
            let stored = serde_json::to_value(code).unwrap();

            assert_eq!(stored, code.as_str());
            assert_eq!(serde_json::from_value::<Code>(stored).unwrap(), *code);
        }
    }

    #[test]
    fn every_code_is_another_snake_case_word_with_one_line_of_meaning() {
        let words: HashSet<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();

        assert_eq!(words.len(), Code::ALL.len());
        for code in Code::ALL {
            assert!(code.as_str().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'));
            assert!(code.meaning().ends_with('.') && code.meaning().contains(": "), "{code}");
        }
    }
}
