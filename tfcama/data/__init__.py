"""Where inputs come from: data sets, manipulations, and the pipeline that feeds training."""
