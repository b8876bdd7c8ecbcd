"""Reference networks, built by name and arguments so that a collection on disk can rebuild them."""

from weightspace.models.bert import BERT as BERT
from weightspace.models.bert import BERTClassifier as BERTClassifier
from weightspace.models.bert import BERTMaskedWords as BERTMaskedWords
from weightspace.models.conv import Conv as Conv
from weightspace.models.conv import SmallConv as SmallConv
from weightspace.models.language import LSTMLanguageModel as LSTMLanguageModel
from weightspace.models.language import TransformerLanguageModel as TransformerLanguageModel
from weightspace.models.lenet import LeNet5 as LeNet5
from weightspace.models.lenet import LeNet300 as LeNet300
from weightspace.models.libraries import from_library as from_library
from weightspace.models.mlp import MLP as MLP
from weightspace.models.policy import ActorCritic as ActorCritic
from weightspace.models.resnet import ResNet18 as ResNet18
from weightspace.models.resnet import ResNet20 as ResNet20
from weightspace.models.siren import Siren as Siren
from weightspace.models.vgg import VGG as VGG
from weightspace.models.vit import ViT as ViT
