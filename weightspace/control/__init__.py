"""Policies as networks: environments on tensors, PPO for many policies at once, returns on fixed starts."""

from weightspace.control.environment import CartPole as CartPole
from weightspace.control.environment import Environment as Environment
from weightspace.control.ppo import PPO as PPO
from weightspace.control.task import PolicyTask as PolicyTask
from weightspace.control.task import cartpole as cartpole
