"""Policies as networks: environments, PPO for many policies at once, returns on fixed starts."""

from weightspace.control.environment import CartPole as CartPole
from weightspace.control.environment import Environment as Environment
from weightspace.control.gymnasium_environment import Gymnasium as Gymnasium
from weightspace.control.ppo import PPO as PPO
from weightspace.control.problems import acrobot as acrobot
from weightspace.control.problems import cartpole as cartpole
from weightspace.control.problems import gymnasium_task as gymnasium_task
from weightspace.control.problems import lunar_lander as lunar_lander
from weightspace.control.task import PolicyTask as PolicyTask
