"""What comes after a study: models that are loaded, combined, measured, asked, trained like any other estimator
and handed on."""
