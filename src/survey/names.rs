//! Families of pathnames: folders and files whose names are ids become captures of a pattern.
//!
//! Memory does not grow with the store: a folder with many children keeps what they have in common.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use regex::Regex;
use serde::Serialize;

use crate::blob::ListedBlob;

/// A folder with more children than this keeps only what they have in common.
const CHILDREN_MAX: usize = 64;
/// More names than this in one folder are ids, whatever they look like.
const WORDS_MAX: usize = 8;
/// How many blobs of a family are looked at.
const SAMPLES_MAX: usize = 12;

/// Extensions of what is no record.
const ASSETS: [&str; 28] = [
    "avif", "bmp", "css", "eot", "gif", "heic", "ico", "jpeg", "jpg", "js", "map", "mov", "mp3", "mp4",
    "ogg", "otf", "pdf", "png", "svg", "tif", "tiff", "ttf", "wasm", "wav", "webm", "webp", "woff", "woff2",
];

/// What a name looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Look {
    /// A UUID.
    Uuid,
    /// At least 8 hexadecimal digits.
    Hash,
    /// A time in seconds or milliseconds.
    Timestamp,
    /// A whole number.
    Number,
    /// A day.
    Date,
    /// A month.
    Month,
    /// Something, and the time at which it was written.
    Stamped,
    /// Letters and digits.
    Code,
    /// A word.
    Word,
}

/// Pathnames of one pattern.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Family {
    /// Its name, unique in any case.
    pub name: String,
    /// Its pattern.
    pub pattern: String,
    /// What the pattern captures, in order.
    pub captures: Vec<Captured>,
    /// How many blobs.
    pub blobs: u64,
    /// Their length.
    pub bytes: u64,
    /// Some of them.
    #[serde(skip)]
    pub samples: Vec<ListedBlob>,
}

/// A part of a pattern that differs from blob to blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Captured {
    /// Its name.
    pub name: String,
    /// What it looks like, the commonest first.
    pub looks: Vec<Look>,
}

/// Blobs that are no records, by their extension.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Asset {
    /// The extension.
    pub extension: String,
    /// How many blobs.
    pub blobs: u64,
    /// Their length.
    pub bytes: u64,
}

/// The pathnames of a store.
#[derive(Debug, Default)]
pub struct Names {
    root: Folder,
    assets: BTreeMap<String, Asset>,
}

#[derive(Debug, Default)]
struct Folder {
    folders: BTreeMap<String, Folder>,
    /// All folders in here as if they were one, once there were too many.
    any: Option<Box<Folder>>,
    looks: BTreeMap<Look, u64>,
    /// By extension.
    files: BTreeMap<String, Files>,
}

#[derive(Debug, Default)]
struct Files {
    /// By what is before the extension.
    stems: BTreeMap<String, Group>,
    any: Option<Group>,
}

#[derive(Debug, Default)]
struct Group {
    blobs: u64,
    bytes: u64,
    looks: BTreeMap<Look, u64>,
    samples: Vec<ListedBlob>,
}

impl Look {
    /// What a name looks like.
    #[must_use]
    pub fn of(name: &str) -> Self {
        static LOOKS: LazyLock<Vec<(Look, Regex)>> = LazyLock::new(|| {
            let regex = |text: &str| Regex::new(text).expect("invariant: the expression is valid");
            vec![
                (Look::Uuid, regex("^(?i)[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$")),
                (Look::Timestamp, regex("^1[0-9]{9}([0-9]{3})?$")),
                (Look::Number, regex("^[0-9]+$")),
                (Look::Date, regex("^[12][0-9]{3}-?[01][0-9]-?[0-3][0-9](T.*)?$")),
                (Look::Month, regex("^[12][0-9]{3}-[01][0-9]$")),
                (Look::Hash, regex("^(?i)[0-9a-f]{8,}$")),
                (Look::Stamped, regex("(?s)^.+_1[0-9]{9}([0-9]{3})?([-_][A-Za-z0-9]+)?$")),
                (Look::Code, regex("[0-9]")),
            ]
        });
        let look = LOOKS.iter().find(|(_, regex)| regex.is_match(name));
        // Eight letters from a to f are a hash only with a digit among them.
        let is_word = name.bytes().all(|byte| byte.is_ascii_alphabetic());
        look.filter(|_| !is_word).map_or(Self::Word, |(look, _)| *look)
    }

    /// What it looks like, for people.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Uuid => "UUIDs",
            Self::Hash => "hashes",
            Self::Timestamp => "times",
            Self::Number => "numbers",
            Self::Date => "days",
            Self::Month => "months",
            Self::Stamped => "ids with a time",
            Self::Code => "letters with digits",
            Self::Word => "words",
        }
    }
}

/// A file's name and extension.
fn extension_of(file: &str) -> (&str, &str) {
    match file.rsplit_once('.') {
        Some((stem, extension))
            if !stem.is_empty()
                && (1..=8).contains(&extension.len())
                && extension.bytes().all(|byte| byte.is_ascii_alphanumeric())
                && extension.bytes().any(|byte| byte.is_ascii_alphabetic()) =>
        {
            (stem, extension)
        }
        _ => (file, ""),
    }
}

impl Names {
    /// Takes a blob into account.
    pub fn add(&mut self, blob: &ListedBlob) {
        let (folders, file) = match blob.pathname.as_str().rsplit_once('/') {
            Some((folders, file)) => (folders.split('/').collect(), file),
            None => (Vec::new(), blob.pathname.as_str()),
        };
        let (stem, extension) = extension_of(file);
        if ASSETS.contains(&extension.to_lowercase().as_str()) {
            let extension = extension.to_owned();
            let new = || Asset { extension: extension.clone(), blobs: 0, bytes: 0 };
            let asset = self.assets.entry(extension.clone()).or_insert_with(new);
            asset.blobs += 1;
            asset.bytes += blob.size;
            return;
        }
        let mut at = &mut self.root;
        for name in folders {
            at = at.child(name);
        }
        at.files.entry(extension.to_owned()).or_default().stem(stem).add(stem, blob);
    }

    /// The families, and what is no record.
    #[must_use]
    pub fn finish(self) -> (Vec<Family>, Vec<Asset>) {
        let mut families = Families { found: Vec::new(), names: BTreeSet::new() };
        families.folder(self.root, &Prefix::default());
        (families.found, self.assets.into_values().collect())
    }
}

impl Folder {
    fn child(&mut self, name: &str) -> &mut Self {
        *self.looks.entry(Look::of(name)).or_default() += 1;
        if self.any.is_none() && !self.folders.contains_key(name) && self.folders.len() >= CHILDREN_MAX {
            self.any = Some(Box::new(merged(std::mem::take(&mut self.folders))));
        }
        match &mut self.any {
            Some(any) => any,
            None => self.folders.entry(name.to_owned()).or_default(),
        }
    }

    fn merge(&mut self, other: Self) {
        for (look, count) in other.looks {
            *self.looks.entry(look).or_default() += count;
        }
        let folders = other.folders;
        if let Some(any) = other.any {
            let mut all = merged(std::mem::take(&mut self.folders));
            all.merge(*any);
            all.merge(merged(folders));
            match &mut self.any {
                Some(any) => any.merge(all),
                None => self.any = Some(Box::new(all)),
            }
        } else {
            for (name, folder) in folders {
                self.child(&name).merge(folder);
            }
        }
        for (extension, files) in other.files {
            let into = self.files.entry(extension).or_default();
            for (stem, group) in files.stems {
                into.stem(&stem).merge(group);
            }
            if let Some(group) = files.any {
                into.any().merge(group);
            }
        }
    }
}

fn merged(folders: BTreeMap<String, Folder>) -> Folder {
    folders.into_values().fold(Folder::default(), |mut all, folder| {
        all.merge(folder);
        all
    })
}

impl Files {
    fn stem(&mut self, stem: &str) -> &mut Group {
        let is_full = self.stems.len() >= CHILDREN_MAX && !self.stems.contains_key(stem);
        if self.any.is_some() || is_full {
            return self.any();
        }
        self.stems.entry(stem.to_owned()).or_default()
    }

    /// All files as if they were one.
    fn any(&mut self) -> &mut Group {
        let stems = std::mem::take(&mut self.stems);
        let any = self.any.get_or_insert_default();
        for group in stems.into_values() {
            any.merge(group);
        }
        any
    }
}

impl Group {
    fn add(&mut self, stem: &str, blob: &ListedBlob) {
        self.blobs += 1;
        self.bytes += blob.size;
        *self.looks.entry(Look::of(stem)).or_default() += 1;
        // The first ones, and then ever rarer ones, so that the sample is of the whole listing.
        if self.samples.len() < SAMPLES_MAX / 2 || self.blobs.is_power_of_two() {
            self.samples.push(blob.clone());
            self.thin();
        }
    }

    fn merge(&mut self, other: Self) {
        self.blobs += other.blobs;
        self.bytes += other.bytes;
        for (look, count) in other.looks {
            *self.looks.entry(look).or_default() += count;
        }
        self.samples.extend(other.samples);
        self.thin();
    }

    fn thin(&mut self) {
        while self.samples.len() > SAMPLES_MAX {
            self.samples.remove(SAMPLES_MAX / 2);
        }
    }
}

/// The pattern down to a folder.
#[derive(Debug, Clone, Default)]
struct Prefix {
    pattern: String,
    words: Vec<String>,
    captures: Vec<Captured>,
    is_variable: bool,
}

struct Families {
    found: Vec<Family>,
    names: BTreeSet<String>,
}

impl Families {
    /// The recursion is bounded by the length of a pathname.
    fn folder(&mut self, mut folder: Folder, at: &Prefix) {
        let stems: BTreeSet<&String> = folder.files.values().flat_map(|files| files.stems.keys()).collect();
        let is_code = |name: &String| Look::of(name) != Look::Word;
        // At the top folders are kinds, unless all of them are codes.
        let are_ids = if at.pattern.is_empty() {
            folder.folders.len() > 1 && folder.folders.keys().all(is_code)
        } else {
            let is_id = |name: &String| is_code(name) || stems.contains(name);
            folder.folders.len() > WORDS_MAX || folder.folders.keys().any(is_id)
        };
        let children: BTreeSet<String> = folder.folders.keys().cloned().collect();
        self.files(std::mem::take(&mut folder.files), &children, at);
        if folder.any.is_some() || are_ids {
            let mut all = folder.any.map(|any| *any).unwrap_or_default();
            all.merge(merged(folder.folders));
            let mut below = at.clone();
            let name = below.capture(&folder.looks, None);
            below.pattern += &format!("{{{name}}}/");
            below.is_variable = true;
            self.folder(all, &below);
            return;
        }
        for (name, folder) in folder.folders {
            let mut below = at.clone();
            below.pattern += &format!("{}/", literal(&name));
            below.words.push(name);
            below.is_variable = false;
            self.folder(folder, &below);
        }
    }

    fn files(&mut self, mut all: BTreeMap<String, Files>, folders: &BTreeSet<String>, at: &Prefix) {
        let vary = |files: &Files| {
            let is_top = at.pattern.is_empty();
            let is_id = |stem: &String| Look::of(stem) != Look::Word || !is_top && folders.contains(stem);
            // Words beside each other in a folder are ids; where the folder itself is one, or at the top, each
            // word is a kind of its own.
            let words_max = if at.is_variable || is_top { WORDS_MAX } else { 1 };
            files.any.is_some() || files.stems.len() > words_max || files.stems.keys().any(is_id)
        };
        // A capture without an extension takes every file of its folder.
        if all.get("").is_some_and(vary) {
            let mut every = Group::default();
            for mut files in std::mem::take(&mut all).into_values() {
                every.merge(std::mem::take(files.any()));
            }
            self.varying(every, "", at);
        }
        for (extension, mut files) in all {
            if vary(&files) {
                self.varying(std::mem::take(files.any()), &extension, at);
                continue;
            }
            for (stem, group) in files.stems {
                let mut here = at.clone();
                here.words.push(stem.clone());
                self.push(here, group, &format!("{}{}", literal(&stem), suffix(&extension)));
            }
        }
    }

    fn varying(&mut self, group: Group, extension: &str, at: &Prefix) {
        let mut here = at.clone();
        let is_stamped = group.looks.len() == 1 && group.looks.contains_key(&Look::Stamped);
        let name = here.capture(&group.looks, None);
        let mut file = format!("{{{name}}}");
        if is_stamped {
            let stamp = here.capture(&BTreeMap::from([(Look::Timestamp, 1)]), Some("stamp"));
            file += &format!("_{{{stamp}}}");
        }
        self.push(here, group, &(file + &suffix(extension)));
    }

    fn push(&mut self, at: Prefix, group: Group, file: &str) {
        let words = at.words.iter().map(|word| plain(word)).filter(|word| !word.is_empty());
        let joined = words.collect::<Vec<_>>().join("-");
        let base = if joined.is_empty() { "record".to_owned() } else { joined };
        let mut name = base.clone();
        let mut number = 2;
        while !self.names.insert(name.to_uppercase()) {
            name = format!("{base}-{number}");
            number += 1;
        }
        self.found.push(Family {
            name,
            pattern: at.pattern + file,
            captures: at.captures,
            blobs: group.blobs,
            bytes: group.bytes,
            samples: group.samples,
        });
    }
}

impl Prefix {
    /// Adds a capture, named after the folder that it is in.
    fn capture(&mut self, looks: &BTreeMap<Look, u64>, name: Option<&str>) -> String {
        let mut looks: Vec<(Look, u64)> = looks.iter().map(|(look, count)| (*look, *count)).collect();
        looks.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let looks: Vec<Look> = looks.into_iter().map(|(look, _)| look).collect();
        let folder = self.words.last().map(|word| plain(word)).unwrap_or_default();
        let folder: String = folder.chars().filter(char::is_ascii_alphanumeric).collect();
        let base = match (name, looks.as_slice()) {
            (Some(name), _) => name.to_owned(),
            (None, [Look::Date]) => "day".to_owned(),
            (None, [Look::Month]) => "month".to_owned(),
            (None, _) if folder.starts_with(|first: char| first.is_ascii_alphabetic()) => {
                format!("{}Id", singular(&folder))
            }
            (None, _) => "id".to_owned(),
        };
        let taken = |name: &String| self.captures.iter().any(|capture| capture.name == *name);
        let mut unique = base.clone();
        let mut number = 2;
        while taken(&unique) {
            unique = format!("{base}{number}");
            number += 1;
        }
        self.captures.push(Captured { name: unique.clone(), looks });
        unique
    }
}

fn suffix(extension: &str) -> String {
    if extension.is_empty() { String::new() } else { format!(".{extension}") }
}

fn singular(word: &str) -> String {
    match (word.strip_suffix("ies"), word.strip_suffix('s')) {
        (Some(stem), _) if !stem.is_empty() => format!("{stem}y"),
        (_, Some(stem)) if stem.len() > 1 && !stem.ends_with('s') => stem.to_owned(),
        _ => word.to_owned(),
    }
}

/// A word without what has a meaning in names of entities and keys.
fn plain(word: &str) -> String {
    let plain = |letter: char| if letter.is_ascii_alphanumeric() { letter } else { '-' };
    word.chars().map(plain).collect::<String>().trim_matches('-').to_owned()
}

/// A name as a pattern has it.
fn literal(name: &str) -> String {
    let mut literal = String::new();
    for letter in name.chars() {
        if ['*', '{', '}', '\\'].contains(&letter) {
            literal.push('\\');
        }
        literal.push(letter);
    }
    literal
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::{ETag, Pathname};

    fn patterns(pathnames: impl IntoIterator<Item = String>) -> Vec<(String, u64)> {
        let mut names = Names::default();
        for pathname in pathnames {
            names.add(&ListedBlob {
                pathname: Pathname::new(pathname),
                size: 1,
                uploaded_at: jiff::Timestamp::UNIX_EPOCH,
                etag: ETag::new("\"x\""),
                url: String::new(),
                download_url: String::new(),
            });
        }
        let (families, _) = names.finish();
        families.into_iter().map(|family| (family.pattern, family.blobs)).collect()
    }

    fn expect(pathnames: &[&str], expected: &[(&str, u64)]) {
        let found = patterns(pathnames.iter().map(|name| (*name).to_owned()));
        let found: Vec<_> = found.iter().map(|(pattern, blobs)| (pattern.as_str(), *blobs)).collect();
        assert_eq!(found, expected, "{pathnames:?}");
    }

    #[test]
    fn ids_become_captures_and_words_stay() {
        expect(
            &["teams/blue.json", "teams/blue/tasks/7.json"],
            &[("teams/{teamId}.json", 1), ("teams/{teamId}/tasks/{taskId}.json", 1)],
        );
        expect(
            &["users/u1/cookies.json", "users/u2/cookies.json", "users/u2/profile.json"],
            &[("users/{userId}/cookies.json", 2), ("users/{userId}/profile.json", 1)],
        );
        expect(
            &["db.json", "users.json", "users/1.json"],
            &[("db.json", 1), ("users.json", 1), ("users/{userId}.json", 1)],
        );
        expect(
            &["usage/daily/2026-01-04.json", "usage/monthly/2026-01.json"],
            &[("usage/daily/{day}.json", 1), ("usage/monthly/{month}.json", 1)],
        );
        expect(
            &["/Users/1.json", "users/1.json"],
            &[("/Users/{UserId}.json", 1), ("users/{userId}.json", 1)],
        );
        expect(&["a{1}/b*c.json"], &[("a\\{1\\}/b\\*c.json", 1)]);
        expect(&["profiles/ada/v1", "profiles/ada/v2.json"], &[("profiles/ada/{adaId}", 2)]);
        expect(&["s/a_b_c_1700000000000-x.json", "s/d_1700000000001-y.json"], &[("s/{sId}_{stamp}.json", 2)]);
    }

    #[test]
    fn a_store_of_any_size_has_as_many_families() {
        let many = (0..3_000).flat_map(|user| {
            [format!("users/name{user}/profile.json"), format!("users/name{user}/posts/{user}.json")]
        });
        let expected =
            [("users/{userId}/profile.json", 3_000), ("users/{userId}/posts/{postId}.json", 3_000)];
        let found = patterns(many);
        assert_eq!(found, expected.map(|(pattern, blobs)| (pattern.to_owned(), blobs)));
    }
}
