//! The name of a want for programs: in JSON, in the reconciler and in tests. The sentence of a want is for people, and may
//! change.

use std::fmt;

/// The name of a want, stable over versions of ironstrap. No two wants of one machine have the same `Id`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    /// `STEP.WHAT`, as in `swap.active`.
    pub name: &'static str,
    /// The file, object or node that the want is about, if a machine has several wants of that name. Otherwise it is empty.
    pub subject: String,
}

/// Prints `kernel.sysctl[net.ipv4.ip_forward]`, or the name alone.
impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name)?;
        if self.subject.is_empty() { Ok(()) } else { write!(f, "[{}]", self.subject) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_stands_in_brackets() {
        let id = |subject: &str| Id { name: "kernel.sysctl", subject: subject.into() }.to_string();
        assert_eq!(id("vm.overcommit_memory"), "kernel.sysctl[vm.overcommit_memory]");
        assert_eq!(id(""), "kernel.sysctl");
    }
}
