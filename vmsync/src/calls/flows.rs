//! Which call flow a call walks through: the live one of the store, else the folder's, else the
//! one that comes with the program. One that doesn't pass the check is passed over, with a warning:
//! a call is never refused for a mistake in a text as long as there is another.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::Path,
    sync::Arc,
};

use vmsync_callflows::{BUILT_IN, Flow, FlowError, MAX_SOURCE, check, is_flow_name};
use vmsync_store::{Store, StoreError};

/// Most files of the folder that are looked at.
const FILES: usize = 1_000;

/// Where a call flow's source is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum From {
    /// The store: made live over HTTP, the same on both nodes.
    Live,
    /// `callflows.dir` of this node.
    Folder,
    /// The program.
    BuiltIn,
}

/// A call flow's source.
#[derive(Debug, Clone)]
pub struct Source {
    /// Where from.
    pub from: From,
    /// TOML; not checked yet.
    pub text: Vec<u8>,
}

/// Why no call flow can be played.
#[derive(Debug)]
pub enum NoFlow {
    /// There is none of that name.
    Unknown,
    /// There is, but with errors: those of the first that was tried.
    Broken(Vec<FlowError>),
    /// The store failed.
    Store(StoreError),
}

impl From {
    /// The word for it in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Folder => "folder",
            Self::BuiltIn => "built-in",
        }
    }
}

/// Every source of flow `name`, the one that counts first. Blocks.
pub fn sources(store: &Store, dir: &Path, name: &str) -> Result<Vec<Source>, StoreError> {
    let mut found = Vec::new();
    if let Some(flow) = store.flow(name)? {
        found.push(Source {
            from: From::Live,
            text: flow.source.into_bytes(),
        });
    }
    match read(dir, name) {
        Ok(Some(text)) => found.push(Source {
            from: From::Folder,
            text,
        }),
        Ok(None) => {}
        Err(error) => {
            tracing::warn!(flow = name, dir = %dir.display(), %error, "call flow's file not readable");
        }
    }
    if let Some(text) = vmsync_callflows::built_in(name) {
        found.push(Source {
            from: From::BuiltIn,
            text: text.as_bytes().to_vec(),
        });
    }
    Ok(found)
}

/// The flow that a call of that name walks through. Blocks.
pub fn playable(store: &Store, dir: &Path, name: &str) -> Result<Arc<Flow>, NoFlow> {
    let mut broken = None;
    for source in sources(store, dir, name).map_err(NoFlow::Store)? {
        match check(&source.text, &format!("{name}.toml")) {
            Ok(flow) => return Ok(Arc::new(flow)),
            Err(errors) => {
                let first = errors.first().map(ToString::to_string);
                tracing::warn!(
                    flow = name,
                    from = source.from.as_str(),
                    errors = errors.len(),
                    first,
                    "call flow passed over"
                );
                broken.get_or_insert(errors);
            }
        }
    }
    Err(broken.map_or(NoFlow::Unknown, NoFlow::Broken))
}

/// Names of all flows there are, in order, each with where the one that counts is from. Blocks.
pub fn names(store: &Store, dir: &Path) -> Result<Vec<(String, From)>, StoreError> {
    let live = store
        .flows()?
        .into_iter()
        .map(|flow| (flow.name, From::Live));
    let files = files(dir).into_iter().map(|name| (name, From::Folder));
    let built_in = BUILT_IN
        .iter()
        .map(|(name, _)| ((*name).to_owned(), From::BuiltIn));
    let mut all: Vec<(String, From)> = live.chain(files).chain(built_in).collect();
    all.sort();
    all.dedup_by(|later, first| later.0 == first.0);
    Ok(all)
}

/// Reads `dir/name.toml`; one byte more than a flow may have is enough to refuse it.
fn read(dir: &Path, name: &str) -> io::Result<Option<Vec<u8>>> {
    if !is_flow_name(name) {
        return Ok(None);
    }
    let path = dir.join(format!("{name}.toml"));
    match fs::metadata(&path) {
        // A pipe or device would never end.
        Ok(meta) if !meta.is_file() => return Err(io::Error::other("not a regular file")),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    }
    let mut text = Vec::new();
    File::open(path)?
        .take(MAX_SOURCE as u64 + 1)
        .read_to_end(&mut text)?;
    Ok(Some(text))
}

fn files(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .take(FILES);
    let names = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        name.strip_suffix(".toml").map(str::to_owned)
    });
    names.filter(|name| is_flow_name(name)).collect()
}
