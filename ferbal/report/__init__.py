"""The report: store → `tables` (`collect`, `scored`) → `frames` → `figures` and `panels` → one HTML page (`page`)."""
