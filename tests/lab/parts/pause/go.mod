module ironstrap.invalid/lab/pause

go 1.26
