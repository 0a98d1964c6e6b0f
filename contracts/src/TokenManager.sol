// SPDX-License-Identifier: MIT
pragma solidity ^0.8.24;

import {AccessControl} from "@openzeppelin/contracts/access/AccessControl.sol";
import {IERC20Errors} from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";
import {Create2} from "@openzeppelin/contracts/utils/Create2.sol";

import {HokusaiToken, IHokusaiTokenErrors} from "./HokusaiToken.sol";

/// @title One token for each model, and never a second one
/// @notice Creates the tokens, owns them and controls their supply.
/// @dev The rule "one token per model id" is kept here, in the one place that every replica,
/// release and signing key of the caller shares. It holds for a caller that lost all its memory.
/// The token's own errors are inherited to be in this ABI: a call may revert with any of them.
contract TokenManager is AccessControl, IHokusaiTokenErrors, IERC20Errors {
    /// @notice May create tokens. Without this role a stranger could take a model id before its
    /// producer does.
    bytes32 public constant DEPLOYER_ROLE = keccak256("DEPLOYER_ROLE");

    /// @notice May change the supply of every token. Apart from DEPLOYER_ROLE because the key that
    /// deploys sits in a service and should not be able to print money.
    bytes32 public constant MINTER_ROLE = keccak256("MINTER_ROLE");

    /// @notice The token of a model; the zero address when it has none.
    mapping(string modelId => address token) public tokenOf;

    /// @notice `deployer` created `token` for `modelId`.
    event TokenDeployed(
        string indexed modelIdHash,
        address indexed token,
        address indexed deployer,
        string modelId,
        string name,
        string symbol,
        string mlflowRunId
    );

    /// Nobody could grant roles, ever.
    error ZeroAdmin();

    /// The model has its one token already, whatever its name and symbol.
    error TokenAlreadyDeployed(string modelId, address token);

    /// The model has no token here.
    error UnknownModel(string modelId);

    /// @param admin May grant roles and replace controllers. It gets no other role: who deploys and
    /// who mints is its decision.
    constructor(address admin) {
        if (admin == address(0)) revert ZeroAdmin();
        _grantRole(DEFAULT_ADMIN_ROLE, admin);
    }

    /// @notice Create the token of `modelId`. For DEPLOYER_ROLE.
    /// @return token Its address, the one `predictToken` gives.
    function deployToken(
        string calldata modelId,
        string calldata name,
        string calldata symbol,
        string calldata mlflowRunId
    ) external onlyRole(DEPLOYER_ROLE) returns (address token) {
        token = tokenOf[modelId];
        if (token != address(0)) revert TokenAlreadyDeployed(modelId, token);
        token = Create2.deploy(0, _salt(modelId), _initCode(modelId, name, symbol, mlflowRunId));
        tokenOf[modelId] = token;
        emit TokenDeployed(modelId, token, msg.sender, modelId, name, symbol, mlflowRunId);
    }

    /// @notice The address `deployToken` would give, before or after it ran.
    /// @dev Depends on the content too: to ask whether a model has a token, use `tokenOf`. Says
    /// nothing about whether the deployment would succeed.
    function predictToken(
        string calldata modelId,
        string calldata name,
        string calldata symbol,
        string calldata mlflowRunId
    ) external view returns (address) {
        return
            Create2.computeAddress(
                _salt(modelId),
                keccak256(_initCode(modelId, name, symbol, mlflowRunId))
            );
    }

    /// @notice Create `amount` of the model's token for `recipient`. For MINTER_ROLE.
    function mintTokens(
        string calldata modelId,
        address recipient,
        uint256 amount
    ) external onlyRole(MINTER_ROLE) {
        _token(modelId).mint(recipient, amount);
    }

    /// @notice Destroy `amount` of the model's token that `account` holds. For MINTER_ROLE.
    function burnTokens(
        string calldata modelId,
        address account,
        uint256 amount
    ) external onlyRole(MINTER_ROLE) {
        _token(modelId).burnFrom(account, amount);
    }

    /// @notice Hand the supply of the model's token to `newController`. For DEFAULT_ADMIN_ROLE.
    /// @dev The way out when a newer manager is to take over: this one remains the owner, hence can
    /// take the token back, and still refuses a second token for the model.
    function setTokenController(
        string calldata modelId,
        address newController
    ) external onlyRole(DEFAULT_ADMIN_ROLE) {
        _token(modelId).setController(newController);
    }

    function _token(string calldata modelId) private view returns (HokusaiToken) {
        address token = tokenOf[modelId];
        if (token == address(0)) revert UnknownModel(modelId);
        return HokusaiToken(token);
    }

    function _salt(string calldata modelId) private pure returns (bytes32) {
        return keccak256(bytes(modelId));
    }

    /// @dev The one source of the initcode, so that a prediction cannot differ from a deployment.
    function _initCode(
        string calldata modelId,
        string calldata name,
        string calldata symbol,
        string calldata mlflowRunId
    ) private view returns (bytes memory) {
        return
            bytes.concat(
                type(HokusaiToken).creationCode,
                abi.encode(name, symbol, address(this), address(this), modelId, mlflowRunId)
            );
    }
}
