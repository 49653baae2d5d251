# Copyright: the osc.peerpods authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The node-capacity agent: every node that a PeerPodConfig selects advertises its peer-pod slots."""
