//! An object store that fails or stalls when it is told to.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio::sync::watch;

/// Objects in memory, which can be made hard to reach.
#[derive(Debug)]
pub(crate) struct FaultyStore {
    objects: Arc<InMemory>,
    read_bytes: AtomicU64,
    fault: watch::Sender<Option<Fault>>,
}

/// What happens to whoever reads or writes an object whose key has `part` in it.
#[derive(Clone, Debug)]
struct Fault {
    part: String,
    effect: Effect,
}

#[derive(Clone, Copy, Debug)]
enum Effect {
    Fails,
    Stalls,
}

impl FaultyStore {
    pub(crate) fn new(objects: Arc<InMemory>) -> Self {
        Self { objects, read_bytes: AtomicU64::new(0), fault: watch::Sender::new(None) }
    }

    /// Bytes of objects that have been asked for.
    pub(crate) fn read_bytes(&self) -> u64 {
        self.read_bytes.load(Ordering::Relaxed)
    }

    /// Reads and writes of keys with `part` in them fail from now on.
    pub(crate) fn fail(&self, part: &str) {
        self.set(part, Effect::Fails);
    }

    /// Reads and writes of keys with `part` in them wait from now on.
    pub(crate) fn stall(&self, part: &str) {
        self.set(part, Effect::Stalls);
    }

    /// Everything works again, and whoever waited goes on.
    pub(crate) fn heal(&self) {
        self.fault.send_replace(None);
    }

    fn set(&self, part: &str, effect: Effect) {
        self.fault.send_replace(Some(Fault { part: part.to_owned(), effect }));
    }

    async fn reach(&self, key: &Path) -> Result<()> {
        let mut faults = self.fault.subscribe();
        loop {
            let fault = faults.borrow_and_update().clone();
            let Some(fault) = fault.filter(|fault| key.as_ref().contains(&fault.part)) else {
                return Ok(());
            };
            match fault.effect {
                Effect::Fails => {
                    let source = format!("`{key}` cannot be reached, as the test wants it").into();
                    return Err(object_store::Error::Generic { store: "faulty", source });
                }
                Effect::Stalls => faults.changed().await.unwrap(),
            }
        }
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a store that fails on demand")
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        self.reach(location).await?;
        self.objects.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.reach(location).await?;
        self.objects.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.reach(location).await?;
        let object = self.objects.get_opts(location, options).await?;
        self.read_bytes.fetch_add(object.range.end - object.range.start, Ordering::Relaxed);
        Ok(object)
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.objects.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.objects.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.objects.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.objects.copy_opts(from, to, options).await
    }
}
