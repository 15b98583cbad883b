"""Networks, a file each: modules hold parameters and map tensors to tensors."""
