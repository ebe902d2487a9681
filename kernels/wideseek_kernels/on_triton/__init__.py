"""The Triton kernels, one op a file; imported only by what runs one, so that nothing else needs triton."""
