//! The sources below `src`, parsed: which module names which path, and where that leads.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

/// Module paths without `crate`, such as `engine::ops`; the library's root is `lib`, the program's is `main`.
pub(crate) type ModulePath = String;

/// The crate's name, by which the program names the library.
const NAME: &str = "vstar";

/// Imports of imports that are followed.
const MAX_DEPTH: usize = 8;

/// A path that a module names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Reference {
    /// Where it stands, relative to `src`.
    pub(crate) file: String,
    pub(crate) module: ModulePath,
    /// Begins with `crate` for a path of this crate, else with the other crate's name.
    pub(crate) path: Vec<String>,
    pub(crate) is_reexport: bool,
    pub(crate) is_test: bool,
}

/// Every module of the crate.
pub(crate) struct Crate {
    scopes: BTreeMap<ModulePath, Scope>,
    references: Vec<Reference>,
}

/// What names mean within one module.
#[derive(Debug, Default)]
struct Scope {
    file: String,
    children: BTreeSet<String>,
    items: BTreeSet<String>,
    /// Names that a `use` brings in, and the paths that it gives for them, as they are written.
    imports: BTreeMap<String, Vec<String>>,
    /// `use path::*`
    globs: Vec<Vec<String>>,
    named: Vec<Named>,
}

/// A path as it is written.
#[derive(Debug)]
struct Named {
    segments: Vec<String>,
    is_reexport: bool,
    is_test: bool,
}

impl Crate {
    /// Parses every file below `src`.
    pub(crate) fn read() -> Self {
        let src = src();
        let mut files = Vec::new();
        for path in sources(&src) {
            let file = path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
            files.push((file, std::fs::read_to_string(path).unwrap()));
        }
        Self::parse(&files)
    }

    /// Parses files that are given by their names relative to `src` and their texts.
    pub(crate) fn parse(files: &[(String, String)]) -> Self {
        let mut scopes = BTreeMap::new();
        for (file, text) in files {
            let tree = syn::parse_file(text).unwrap_or_else(|error| panic!("{file}: {error}"));
            let module = module_of(file);
            let mut reader =
                Reader { scopes: &mut scopes, file, module: module.clone(), is_test: false };
            reader.scopes.entry(module).or_default().file = file.to_owned();
            reader.visit_file(&tree);
        }
        let mut known = Self { scopes, references: Vec::new() };
        known.references = known.scopes.keys().flat_map(|module| known.named_in(module)).collect();
        known
    }

    pub(crate) fn references(&self) -> &[Reference] {
        &self.references
    }

    /// The modules that `lib.rs` declares, and both roots.
    pub(crate) fn top_level_modules(&self) -> BTreeSet<&str> {
        self.scopes.keys().map(|module| module.split("::").next().unwrap()).collect()
    }

    /// The file in which the thing is defined that a path of this crate names, re-exports followed.
    pub(crate) fn defining_file(&self, path: &[String]) -> &str {
        &self.scopes[&self.defining_module(path, 0)].file
    }

    fn defining_module(&self, path: &[String], depth: usize) -> ModulePath {
        let mut module = "lib".to_owned();
        for (index, segment) in path.iter().enumerate().skip(1) {
            let scope = &self.scopes[&module];
            let child = child_of(&module, segment);
            if self.scopes.contains_key(&child) {
                module = child;
                continue;
            }
            if scope.items.contains(segment) || depth > MAX_DEPTH {
                break;
            }
            if let Some(import) = scope.imports.get(segment) {
                let target = [&self.absolute(&module, import, depth), &path[index + 1..]].concat();
                return match target[0].as_str() {
                    "crate" => self.defining_module(&target, depth + 1),
                    _ => module, // what another crate defines is this module's to hand on
                };
            }
            for glob in &scope.globs {
                let target = [&self.absolute(&module, glob, depth), &path[index..]].concat();
                if target[0] == "crate" {
                    let found = self.defining_module(&target, depth + 1);
                    if self.scopes[&found].items.contains(segment) {
                        return found;
                    }
                }
            }
            break;
        }
        module
    }

    /// What a module names, made absolute.
    fn named_in(&self, module: &str) -> Vec<Reference> {
        let scope = &self.scopes[module];
        let named = scope.named.iter().map(|named| Reference {
            file: scope.file.clone(),
            module: module.to_owned(),
            path: self.absolute(module, &named.segments, 0),
            is_reexport: named.is_reexport,
            is_test: named.is_test,
        });
        named.collect()
    }

    /// A path as it is written within a module, made absolute: it begins with `crate` or with another crate's name.
    fn absolute(&self, module: &str, segments: &[String], depth: usize) -> Vec<String> {
        let scope = &self.scopes[module];
        let mut base: Vec<String> = vec!["crate".to_owned()];
        if module != "lib" && module != "main" {
            base.extend(module.split("::").map(str::to_owned));
        }
        let mut rest = segments;
        let (first, tail) = (segments[0].as_str(), &segments[1..]);
        if let Some(external) = first.strip_prefix("::") {
            return [&[external.to_owned()], tail].concat();
        } else if first == "crate" || (first == NAME && module == "main") {
            base.truncate(1);
            rest = tail;
        } else if first == "self" {
            rest = tail;
        } else if first == "super" {
            while rest.first().is_some_and(|segment| segment == "super") {
                base.pop();
                rest = &rest[1..];
            }
        } else if let Some(import) = scope.imports.get(first)
            && import != segments
            && depth < MAX_DEPTH
        {
            base = self.absolute(module, import, depth + 1);
            rest = tail;
        } else if !scope.children.contains(first) || tail.is_empty() {
            // Neither declared nor brought in here: another crate, a type parameter, or a word of the prelude.
            return segments.to_vec();
        }
        base.extend_from_slice(rest);
        base
    }
}

/// Collects the names of one file.
struct Reader<'a> {
    scopes: &'a mut BTreeMap<ModulePath, Scope>,
    file: &'a str,
    module: ModulePath,
    is_test: bool,
}

impl Reader<'_> {
    fn scope(&mut self) -> &mut Scope {
        self.scopes.get_mut(&self.module).unwrap()
    }

    fn names(&mut self, segments: Vec<String>, is_reexport: bool) {
        let is_test = self.is_test;
        self.scope().named.push(Named { segments, is_reexport, is_test });
    }

    /// Goes into something that may be for tests alone.
    fn within(&mut self, attributes: &[syn::Attribute], go: impl FnOnce(&mut Self)) {
        let before = self.is_test;
        self.is_test |= attributes.iter().any(is_cfg_test);
        go(self);
        self.is_test = before;
    }

    fn use_tree(&mut self, tree: &syn::UseTree, prefix: &[String], is_reexport: bool) {
        let with = |name: String| [prefix, &[name]].concat();
        match tree {
            syn::UseTree::Path(path) => {
                self.use_tree(&path.tree, &with(path.ident.to_string()), is_reexport);
            }
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    self.use_tree(tree, prefix, is_reexport);
                }
            }
            syn::UseTree::Glob(_) => {
                self.scope().globs.push(prefix.to_vec());
                self.names(prefix.to_vec(), is_reexport);
            }
            syn::UseTree::Name(name) => {
                let name = name.ident.to_string();
                let path = if name == "self" { prefix.to_vec() } else { with(name) };
                let name = path.last().unwrap().clone();
                self.import(name, path, is_reexport);
            }
            syn::UseTree::Rename(renamed) => {
                let name = renamed.ident.to_string();
                let path = if name == "self" { prefix.to_vec() } else { with(name) };
                self.import(renamed.rename.to_string(), path, is_reexport);
            }
        }
    }

    fn import(&mut self, name: String, path: Vec<String>, is_reexport: bool) {
        // What tests bring in means nothing to the rest of the file, and is seldom another thing.
        self.scope().imports.entry(name).or_insert_with(|| path.clone());
        self.names(path, is_reexport);
    }

    /// Paths in what is not parsed: a macro's arguments, an attribute.
    fn scan(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(name) => {
                    if colons != 2 {
                        self.end_of(&mut path);
                    }
                    path.push(name.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Group(group) => {
                    self.end_of(&mut path);
                    self.scan(group.stream());
                    colons = 0;
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => {
                    self.end_of(&mut path);
                    colons = 0;
                }
            }
        }
        self.end_of(&mut path);
    }

    /// A lone word is a variable as likely as not; if it is not, a `use` has brought it in.
    fn end_of(&mut self, path: &mut Vec<String>) {
        let path = std::mem::take(path);
        if path.len() > 1 {
            self.names(path, false);
        }
    }

    fn defines(&mut self, name: &syn::Ident) {
        let name = name.to_string();
        self.scope().items.insert(name);
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let is_reexport = !matches!(item.vis, syn::Visibility::Inherited);
        self.within(&item.attrs, |reader| reader.use_tree(&item.tree, &[], is_reexport));
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let name = item.ident.to_string();
        self.scope().children.insert(name.clone());
        let Some((_, items)) = &item.content else { return };
        self.within(&item.attrs, |reader| {
            let inner = child_of(&reader.module, &name);
            let file = reader.file.to_owned();
            reader.scopes.entry(inner.clone()).or_default().file = file;
            let outer = std::mem::replace(&mut reader.module, inner);
            items.iter().for_each(|item| reader.visit_item(item));
            reader.module = outer;
        });
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.defines(&item.sig.ident);
        self.within(&item.attrs, |reader| visit::visit_item_fn(reader, item));
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        self.within(&item.attrs, |reader| visit::visit_item_impl(reader, item));
    }

    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        self.defines(&item.ident);
        visit::visit_item_struct(self, item);
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        self.defines(&item.ident);
        visit::visit_item_enum(self, item);
    }

    fn visit_item_union(&mut self, item: &'ast syn::ItemUnion) {
        self.defines(&item.ident);
        visit::visit_item_union(self, item);
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        self.defines(&item.ident);
        visit::visit_item_trait(self, item);
    }

    fn visit_item_type(&mut self, item: &'ast syn::ItemType) {
        self.defines(&item.ident);
        visit::visit_item_type(self, item);
    }

    fn visit_item_const(&mut self, item: &'ast syn::ItemConst) {
        self.defines(&item.ident);
        visit::visit_item_const(self, item);
    }

    fn visit_item_static(&mut self, item: &'ast syn::ItemStatic) {
        self.defines(&item.ident);
        visit::visit_item_static(self, item);
    }

    fn visit_item_macro(&mut self, item: &'ast syn::ItemMacro) {
        if let Some(name) = &item.ident {
            self.defines(name);
        }
        visit::visit_item_macro(self, item);
    }

    /// `pub(super)` names nothing.
    fn visit_vis_restricted(&mut self, _: &'ast syn::VisRestricted) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let mut segments: Vec<String> =
            path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if path.leading_colon.is_some() {
            segments[0].insert_str(0, "::");
        }
        // A lone word that no `use` of this file brings in is defined here, or known everywhere.
        if segments.len() > 1 || self.scope().imports.contains_key(&segments[0]) {
            self.names(segments, false);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        visit::visit_macro(self, item);
        self.scan(item.tokens.clone());
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        visit::visit_attribute(self, attribute);
        if let syn::Meta::List(list) = &attribute.meta {
            self.scan(list.tokens.clone());
        }
    }
}

fn is_cfg_test(attribute: &syn::Attribute) -> bool {
    attribute.path().is_ident("cfg")
        && matches!(&attribute.meta, syn::Meta::List(list) if list.tokens.to_string() == "test")
}

fn child_of(module: &str, name: &str) -> ModulePath {
    if module == "lib" { name.to_owned() } else { format!("{module}::{name}") }
}

/// `engine/ops.rs` is `engine::ops`.
fn module_of(file: &str) -> ModulePath {
    file.trim_end_matches(".rs").replace('/', "::")
}

pub(crate) fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every source file below a folder, in the order of their names.
pub(crate) fn sources(place: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(place).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}
