//! Modes of files: when a narrower one is as good as the one that a want asks for.

/// The mode in `mode 600 root:root`. `None`: it is not of that form, or root cannot read such a file, or it gives more
/// rights than `wanted`.
pub fn narrowed(head: &str, wanted: u32) -> Option<u32> {
    let mode = head.strip_prefix("mode ")?.strip_suffix(" root:root")?;
    let mode = u32::from_str_radix(mode, 8).ok()?;
    (mode & !wanted == 0 && mode & 0o400 != 0).then_some(mode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_narrower_mode_only_removes_rights_of_others() {
        for (head, wanted, mode) in [
            ("mode 644 root:root", 0o644, Some(0o644)),
            ("mode 600 root:root", 0o644, Some(0o600)),
            ("mode 400 root:root", 0o600, Some(0o400)),
            ("mode 444 root:root", 0o644, Some(0o444)),
            ("mode 0 root:root", 0o644, None),
            ("mode 200 root:root", 0o644, None),
            ("mode 640 root:root", 0o600, None),
            ("mode 664 root:root", 0o644, None),
            ("mode 755 root:root", 0o644, None),
            ("mode 4600 root:root", 0o644, None),
            ("mode 600 root:adm", 0o644, None),
            ("mode 600 ops:root", 0o644, None),
            ("absent", 0o644, None),
            ("mode x root:root", 0o644, None),
        ] {
            assert_eq!(narrowed(head, wanted), mode, "{head}, at most {wanted:o}");
        }
    }
}
