"""What runs a generating model: llama.cpp in this process, or a server over HTTP."""
