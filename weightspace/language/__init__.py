"""Language: pre-trained BERT bodies from local folders, and tasks of texts."""

from weightspace.language.body import ClassHead as ClassHead
from weightspace.language.body import WordHead as WordHead
from weightspace.language.body import bert as bert
from weightspace.language.hugging_face import from_transformers as from_transformers
from weightspace.language.tasks import classification as classification
from weightspace.language.tasks import masked_words as masked_words
from weightspace.language.tasks import pretrained as pretrained
from weightspace.language.tokens import Tokenizer as Tokenizer
