//! paragpu, host side.
