"""The multi-token prediction (MTP) module, which drafts the token after next; trained on the finished, frozen trunk."""
