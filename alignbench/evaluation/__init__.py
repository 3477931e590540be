"""Sources of records (a model, a file, an existing run, a judged pair) and the pipeline that scores them."""
