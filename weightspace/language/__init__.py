"""Language: pre-trained BERT bodies from local folders, language models, and tasks of texts."""

from weightspace.language.body import ClassHead as ClassHead
from weightspace.language.body import WordHead as WordHead
from weightspace.language.body import bert as bert
from weightspace.language.hugging_face import from_transformers as from_transformers
from weightspace.language.next_token import next_token as next_token
from weightspace.language.next_token import next_token_of_ids as next_token_of_ids
from weightspace.language.tasks import classification as classification
from weightspace.language.tasks import masked_words as masked_words
from weightspace.language.tasks import pretrained as pretrained
from weightspace.language.tokens import Tokenizer as Tokenizer
from weightspace.language.vocabulary import Vocabulary as Vocabulary
