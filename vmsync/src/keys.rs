//! Files with secrets: the tokens of the HTTP interface, the pair's key, passwords.
//!
//! Files made here are readable by their owner only and never replace one that is there. Nothing
//! here puts a secret into an error or into `Debug`; tokens are kept as digests only.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    ops::Deref,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use rand::{TryRngCore as _, rngs::OsRng};
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};
use zeroize::Zeroizing;

/// Shortest token taken, characters.
pub const MIN_TOKEN_CHARS: usize = 16;
/// Longest token taken, characters; a request header must hold it.
pub const MAX_TOKEN_CHARS: usize = 512;
/// Most tokens in one file, since each request is compared with all of them.
pub const MAX_TOKENS: usize = 100;
/// Largest file read here, bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Longest password, bytes.
const MAX_SECRET_BYTES: usize = 1024;

/// A file that can't be used: which, why, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct FileError {
    /// The file or folder.
    pub path: PathBuf,
    /// What is wrong and what to do; holds no secret.
    pub problem: String,
}

impl FileError {
    pub(crate) fn new(path: &Path, problem: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            problem: problem.into(),
        }
    }
}

/// A secret text. Reads as `str`; `Debug` hides it, and its memory is cleared when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Deref for Secret {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// What a token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Looking only.
    Read,
    /// Everything.
    Admin,
}

/// The tokens that the HTTP interface takes.
#[derive(Clone)]
pub struct Tokens(Vec<(Scope, [u8; 32])>);

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokens({})", self.0.len())
    }
}

impl Tokens {
    /// Reads a tokens file; see [`Tokens::parse`].
    ///
    /// # Errors
    /// The file can't be read, or what [`Tokens::parse`] refuses.
    pub fn load(path: &Path) -> Result<Self, FileError> {
        let text = read_text(path)?;
        Self::parse(&text).map_err(|problem| FileError::new(path, problem))
    }

    /// Reads lines `admin TOKEN` and `read TOKEN`; empty lines and what follows `#` at the
    /// beginning of a line or after a space are skipped.
    ///
    /// # Errors
    /// Every wrong line at once, by number; a file without a token. The tokens themselves are
    /// never repeated.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut tokens: Vec<(Scope, [u8; 32])> = Vec::new();
        let mut problems = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            match token_line(line) {
                Ok(None) => {}
                Ok(Some((_, digest))) if tokens.iter().any(|(_, held)| *held == digest) => {
                    problems.push(format!("line {number}: this token is in the file already"));
                }
                Ok(Some(token)) => tokens.push(token),
                Err(problem) => problems.push(format!("line {number}: {problem}")),
            }
        }
        if tokens.len() > MAX_TOKENS {
            problems.push(format!("more than {MAX_TOKENS} tokens: remove some"));
        }
        if !problems.is_empty() {
            return Err(problems.join("; "));
        }
        if tokens.is_empty() {
            return Err(format!(
                "holds no token, so nobody could use the HTTP interface: write a line `admin TOKEN` with a random \
                 token of {MIN_TOKEN_CHARS} characters or more"
            ));
        }
        Ok(Self(tokens))
    }

    /// What `presented` allows; `None` when it is none of the tokens. Takes the same time
    /// whichever token it is, or how much of one it has right.
    pub fn check(&self, presented: &str) -> Option<Scope> {
        let presented = digest(presented);
        // 0 none, 1 read, 2 admin; every token is compared, whatever was found before.
        let mut found = 0_u8;
        for (scope, token) in &self.0 {
            let code = match scope {
                Scope::Read => 1,
                Scope::Admin => 2,
            };
            let same: Choice = token.ct_eq(&presented);
            found.conditional_assign(&code, same);
        }
        match found {
            1 => Some(Scope::Read),
            2 => Some(Scope::Admin),
            _ => None,
        }
    }
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

fn token_line(line: &str) -> Result<Option<(Scope, [u8; 32])>, String> {
    let mut words = line.split_whitespace().take_while(|w| !w.starts_with('#'));
    let Some(scope) = words.next() else {
        return Ok(None);
    };
    let scope = match scope {
        "admin" => Scope::Admin,
        "read" => Scope::Read,
        // Not repeated: it may be a token whose scope was forgotten.
        _ => return Err("begin it with admin or read".to_owned()),
    };
    let token = words.next().ok_or("the token is missing after the scope")?;
    if words.next().is_some() {
        return Err("write one scope and one token, without spaces in it".to_owned());
    }
    if !(MIN_TOKEN_CHARS..=MAX_TOKEN_CHARS).contains(&token.len()) {
        return Err(format!(
            "the token has {} characters: use {MIN_TOKEN_CHARS} to {MAX_TOKEN_CHARS} random ones",
            token.chars().count()
        ));
    }
    if !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("the token must be of plain ASCII letters, digits and signs".to_owned());
    }
    Ok(Some((scope, digest(token))))
}

/// The tokens of a file just made.
#[derive(Clone, PartialEq, Eq)]
pub struct GeneratedTokens {
    /// The one with scope `admin`.
    pub admin: String,
    /// The one with scope `read`.
    pub read: String,
}

impl fmt::Debug for GeneratedTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GeneratedTokens(..)")
    }
}

/// Makes a tokens file with a random token of each scope, mode 0600.
///
/// # Errors
/// The file is there already, or can't be written.
pub fn generate_tokens_file(path: &Path) -> Result<GeneratedTokens, FileError> {
    let tokens = GeneratedTokens {
        admin: random_hex(path)?.to_string(),
        read: random_hex(path)?.to_string(),
    };
    let text = Zeroizing::new(format!(
        "# Tokens of the HTTP interface, one a line: scope (admin or read), then the token.\n\
         admin {}\nread {}\n",
        tokens.admin, tokens.read
    ));
    write_secret_file(path, text.as_bytes())?;
    Ok(tokens)
}

/// Makes the pair's key file: 32 random bytes as one line of hexadecimal digits, mode 0600.
/// Both nodes need the same file.
///
/// # Errors
/// The file is there already, or can't be written.
pub fn generate_key_file(path: &Path) -> Result<(), FileError> {
    generate_line(path)
}

/// Makes a file with a random password on its first line, mode 0600.
///
/// # Errors
/// The file is there already, or can't be written.
pub fn generate_password_file(path: &Path) -> Result<(), FileError> {
    generate_line(path)
}

fn generate_line(path: &Path) -> Result<(), FileError> {
    let mut line = random_hex(path)?;
    line.push('\n');
    write_secret_file(path, line.as_bytes())
}

/// Copies a secret file of the pair to a node's folder. One that is there already with the same
/// content stays; with other content it is an error, for nothing is overwritten.
pub fn copy_secret_file(from: &Path, to: &Path) -> Result<(), FileError> {
    let content = read_text(from)?;
    if to.exists() {
        let same = *read_text(to)? == *content;
        let other = "is there already with other content and is not overwritten";
        return if same {
            Ok(())
        } else {
            Err(FileError::new(to, other))
        };
    }
    write_secret_file(to, content.as_bytes())
}

/// Reads the first line of a password file, without its line end; spaces count.
///
/// # Errors
/// The file can't be read, or its first line is empty, longer than 1024 bytes or holds control
/// characters.
pub fn read_secret_line(path: &Path) -> Result<Secret, FileError> {
    let text = read_text(path)?;
    let problem = match text.lines().next().unwrap_or_default() {
        "" => "its first line is empty: write the password there".to_owned(),
        line if line.len() > MAX_SECRET_BYTES => {
            format!("its first line is longer than {MAX_SECRET_BYTES} bytes: this is no password")
        }
        line if line.chars().any(char::is_control) => {
            "its first line holds control characters: write the password alone".to_owned()
        }
        line => return Ok(Secret(Zeroizing::new(line.to_owned()))),
    };
    Err(FileError::new(path, problem))
}

/// 32 random bytes in hexadecimal digits.
fn random_hex(path: &Path) -> Result<Zeroizing<String>, FileError> {
    let mut bytes = Zeroizing::new([0; 32]);
    OsRng.try_fill_bytes(bytes.as_mut()).map_err(|e| {
        FileError::new(
            path,
            format!("the system gave no random numbers for it: {e}"),
        )
    })?;
    Ok(Zeroizing::new(hex::encode(bytes.as_ref())))
}

/// Reads a small text file.
pub(crate) fn read_text(path: &Path) -> Result<Zeroizing<String>, FileError> {
    let failed = |e: &io::Error| {
        FileError::new(
            path,
            format!("can't be read: {e}; check its name and permissions"),
        )
    };
    let file = File::open(path).map_err(|e| failed(&e))?;
    let mut text = Zeroizing::new(String::new());
    file.take(MAX_FILE_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(|e| failed(&e))?;
    if text.len() as u64 > MAX_FILE_BYTES {
        let problem = format!("is longer than {MAX_FILE_BYTES} bytes: name the right file");
        return Err(FileError::new(path, problem));
    }
    Ok(text)
}

/// Writes a new file that only its owner can read; an existing one stays as it is.
pub(crate) fn write_secret_file(path: &Path, content: &[u8]) -> Result<(), FileError> {
    write_new(path, content, 0o600)
}

/// Writes a new file with these permissions. What can't be written whole is removed again.
pub(crate) fn write_new(path: &Path, content: &[u8], mode: u32) -> Result<(), FileError> {
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(|e| FileError::new(path, refusal(&e)))?;
    file.write_all(content).map_err(|e| {
        // Of use to nobody; if it can't be removed either, the next try says that it is there.
        let _ = fs::remove_file(path);
        FileError::new(path, format!("can't be written: {e}"))
    })
}

fn refusal(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AlreadyExists => {
            "is there already and is not overwritten: move it away, or name another".to_owned()
        }
        io::ErrorKind::NotFound => "its folder does not exist: make it first".to_owned(),
        _ => format!("can't be made: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const ADMIN: &str = "0123456789abcdef-admin";
    const READ: &str = "0123456789abcdef-read";

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn each_token_has_its_scope() {
        let text = format!("# who may what\n\n  admin {ADMIN}\nread\t{READ}  # the wallboard\n");
        let tokens = Tokens::parse(&text).unwrap();
        assert_eq!(tokens.check(ADMIN), Some(Scope::Admin));
        assert_eq!(tokens.check(READ), Some(Scope::Read));
        for wrong in [
            "",
            "admin",
            "0123456789abcdef",
            &READ.to_uppercase(),
            &format!("{READ} "),
        ] {
            assert_eq!(tokens.check(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn every_wrong_line_is_named_and_no_token_repeated() {
        let text = format!(
            "admin short\nwrite {ADMIN}\nread\nread {READ} {READ}\nadmin {ADMIN}\nread {ADMIN}\n{READ}\nread 0123456789abcdé\n"
        );
        let problems = Tokens::parse(&text).unwrap_err();
        for line in [1, 2, 3, 4, 6, 7, 8] {
            assert!(
                problems.contains(&format!("line {line}: ")),
                "{line}: {problems}"
            );
        }
        assert!(!problems.contains("line 5: "), "{problems}");
        assert!(
            !problems.contains("0123") && !problems.contains("short"),
            "{problems}"
        );
    }

    #[test]
    fn a_file_without_tokens_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        assert!(
            Tokens::load(&path)
                .unwrap_err()
                .problem
                .contains("can't be read")
        );
        for text in ["", "# nothing yet\n\n"] {
            fs::write(&path, text).unwrap();
            let error = Tokens::load(&path).unwrap_err().to_string();
            assert!(error.starts_with(path.to_str().unwrap()), "{error}");
            assert!(error.contains("`admin TOKEN`"), "{error}");
        }
        let many: String =
            (0..=MAX_TOKENS).fold(String::new(), |text, n| format!("{text}read {READ}{n}\n"));
        assert!(Tokens::parse(&many).unwrap_err().contains("more than 100"));
    }

    #[test]
    fn generated_files_are_private_different_and_stay() {
        let dir = tempfile::tempdir().unwrap();
        let [tokens, key, other] = ["tokens", "pair.key", "other"].map(|n| dir.path().join(n));
        let made = generate_tokens_file(&tokens).unwrap();
        let loaded = Tokens::load(&tokens).unwrap();
        assert_eq!(loaded.check(&made.admin), Some(Scope::Admin));
        assert_eq!(loaded.check(&made.read), Some(Scope::Read));
        generate_key_file(&key).unwrap();
        generate_password_file(&other).unwrap();
        let line = fs::read_to_string(&key).unwrap();
        assert_eq!(hex::decode(line.trim_end()).unwrap().len(), 32);
        assert_ne!(line, fs::read_to_string(&other).unwrap());
        for path in [&tokens, &key, &other] {
            assert_eq!(mode(path), 0o600);
            let before = fs::read(path).unwrap();
            let again = generate_key_file(path).unwrap_err();
            assert!(again.problem.contains("not overwritten"), "{again}");
            assert!(generate_tokens_file(path).is_err());
            assert_eq!(fs::read(path).unwrap(), before);
        }
        let nowhere = generate_key_file(&dir.path().join("none/pair.key")).unwrap_err();
        assert!(
            nowhere.problem.contains("folder does not exist"),
            "{nowhere}"
        );
    }

    #[test]
    fn a_copied_secret_is_private_and_replaces_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("pair.key"), dir.path().join("copy.key"));
        generate_key_file(&from).unwrap();
        copy_secret_file(&from, &to).unwrap();
        assert_eq!(fs::read(&from).unwrap(), fs::read(&to).unwrap());
        assert_eq!(mode(&to), 0o600);
        copy_secret_file(&from, &to).expect("the same again is no error");
        fs::write(&to, "something else").unwrap();
        let error = copy_secret_file(&from, &to).unwrap_err().to_string();
        assert!(error.contains("not overwritten"), "{error}");
    }

    #[test]
    fn the_password_is_the_first_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        for (text, password) in [("a b \r\nnot this\n", "a b "), ("grün", "grün")] {
            fs::write(&path, text).unwrap();
            assert_eq!(&*read_secret_line(&path).unwrap(), password);
        }
        let long = "x".repeat(MAX_SECRET_BYTES + 1);
        for wrong in ["", "\npassword\n", "a\tb\n", &long] {
            fs::write(&path, wrong).unwrap();
            assert!(read_secret_line(&path).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        let made = generate_tokens_file(&path).unwrap();
        let secret = Secret(Zeroizing::new(made.admin.clone()));
        let shown = format!("{:?} {made:?} {secret:?}", Tokens::load(&path).unwrap());
        assert_eq!(shown, "Tokens(2) GeneratedTokens(..) Secret(..)");
    }
}
