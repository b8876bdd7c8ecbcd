"""What is shared on the Hugging Face hub: collections, tickets and reports as datasets, generators as models."""

from weightspace.generator.hub import from_pretrained as from_pretrained
from weightspace.generator.hub import push_to_hub as push_to_hub
from weightspace.generator.hub import save_pretrained as save_pretrained
from weightspace.hub.repositories import pull as pull
from weightspace.hub.repositories import push as push
from weightspace.hub.repositories import write as write
