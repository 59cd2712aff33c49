"""Questions -> messages -> token ids, labels and question mask."""
