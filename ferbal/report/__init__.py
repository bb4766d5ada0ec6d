"""The report: store -> tables (`tables`) -> figures (`panels`) -> one HTML page (`page`)."""
