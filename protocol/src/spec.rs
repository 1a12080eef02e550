//! SPEC tables (placeholder).
