//! E-mail of a PBX (R-IN-2), read into a message. To be written.
