// SPDX-License-Identifier: MIT
pragma solidity ^0.8.24;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";

/// @title The reverts of a HokusaiToken
/// @notice Apart from the token, so that a contract that creates tokens passes them on under names
/// that its own ABI knows.
interface IHokusaiTokenErrors {
    /// A constructor argument is empty; `field` is its name.
    error EmptyField(string field);

    /// Nobody could mint: only another `setController` by the owner would mend it.
    error ZeroController();

    /// `caller` is not the controller.
    error NotController(address caller);
}

/// @title The token of one model
/// @notice An ERC-20 token whose supply one address, the controller, sets. The model and the
/// training run are in its storage and in the logs of its creation, so a token found by itself
/// leads back to both.
/// @dev Controller and owner are arguments and never `msg.sender`: in a deployment by CREATE2 the
/// sender is a factory, and a factory as owner would leave the token without one.
contract HokusaiToken is ERC20, Ownable, IHokusaiTokenErrors {
    /// @notice The address that may mint and may burn what others hold.
    address public controller;

    /// @notice The model this token belongs to.
    string public modelId;

    /// @notice The MLflow run that trained the model; may be empty.
    string public mlflowRunId;

    /// @notice `controller` mints and burns from now on.
    event ControllerUpdated(address indexed controller);

    /// @notice This token belongs to `modelId`. The id is there twice: a log filter needs the
    /// indexed hash, a reader needs the text.
    event ModelLinked(string indexed modelIdHash, string modelId, string mlflowRunId);

    modifier onlyController() {
        _checkController();
        _;
    }

    /// @param name_ The token's name.
    /// @param symbol_ The token's symbol.
    /// @param controller_ Who mints and burns.
    /// @param owner_ Who may replace the controller.
    /// @param modelId_ The model.
    /// @param mlflowRunId_ The run that trained it; may be empty.
    constructor(
        string memory name_,
        string memory symbol_,
        address controller_,
        address owner_,
        string memory modelId_,
        string memory mlflowRunId_
    ) ERC20(name_, symbol_) Ownable(owner_) {
        if (bytes(name_).length == 0) revert EmptyField("name");
        if (bytes(symbol_).length == 0) revert EmptyField("symbol");
        if (bytes(modelId_).length == 0) revert EmptyField("modelId");
        _setController(controller_);
        modelId = modelId_;
        mlflowRunId = mlflowRunId_;
        emit ModelLinked(modelId_, modelId_, mlflowRunId_);
    }

    /// @notice Create `amount` for `to`. For the controller.
    function mint(address to, uint256 amount) external onlyController {
        _mint(to, amount);
    }

    /// @notice Destroy `amount` of what `from` holds. For the controller.
    /// @dev Asks for no allowance: the controller makes the supply and answers for all of it.
    function burnFrom(address from, uint256 amount) external onlyController {
        _burn(from, amount);
    }

    /// @notice Destroy `amount` of what the caller holds.
    function burn(uint256 amount) external {
        _burn(msg.sender, amount);
    }

    /// @notice Hand minting and burning to `newController`. For the owner.
    function setController(address newController) external onlyOwner {
        _setController(newController);
    }

    /// @dev Apart from the modifier, whose body is copied into each function: every byte of this
    /// contract is paid for once per model.
    function _checkController() private view {
        if (msg.sender != controller) revert NotController(msg.sender);
    }

    function _setController(address newController) private {
        if (newController == address(0)) revert ZeroController();
        controller = newController;
        emit ControllerUpdated(newController);
    }
}
