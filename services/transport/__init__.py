"""Shared by attention and expert workers: the payload format, and the P2P groups that carry it on an nccl link."""
