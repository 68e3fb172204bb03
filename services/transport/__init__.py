"""What both ends of the exchange share: the payload's bytes, and the two-rank groups that carry them on a nccl link."""
